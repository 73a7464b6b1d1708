{{/* What the schema cannot say. Each message: what is missing, and what to do. Included by config.yaml,
     so that it runs whatever else is rendered. */}}
{{- define "sluice.validate" -}}
{{- $values := .Values -}}
{{- if $values.model.registry }}
{{- if $values.model.storageUri }}
{{- fail "\n\nmodel.storageUri and model.registry are both given: KServe brings the one, deciders follow the other by themselves. Give one of them.\n" }}
{{- end }}
{{- if $values.serving.kserve.canary.name }}
{{- fail "\n\nserving.kserve.canary tries a release of its own, and with model.registry the registry says which decides: sluice release canary.\n" }}
{{- end }}
{{- else if not $values.model.storageUri }}
{{- fail "\n\nmodel.storageUri is empty: a decider without a release is never ready. Name the folder of a release, pvc://CLAIM/PATH, s3://BUCKET/PATH, oci://IMAGE; or in model.registry a bucket of releases.\n" }}
{{- else if not (include "sluice.modelBy" .) }}
{{- fail (printf "\n\nmodel.storageUri is %s: KServe reads pvc://, s3://, gs://, oci://, https:// and hf://, and a name behind it.\n" $values.model.storageUri) }}
{{- end }}
{{- if not (or $values.trust.keys $values.trust.existingConfigMap $values.trust.shipped) }}
{{- fail "\n\ntrust has no key: no release could be verified, and none would decide. Give the public keys that may sign releases in trust.keys (NAME.pub: text) or trust.existingConfigMap; trust.shipped=true trusts the key of the sample release.\n" }}
{{- end }}
{{- range $name, $_ := $values.trust.keys }}
{{- if not (hasSuffix ".pub" $name) }}
{{- fail (printf "\n\ntrust.keys.%s: only files whose name ends in .pub are read as keys. Call it %s.pub.\n" $name $name) }}
{{- end }}
{{- end }}
{{- if $values.policy.files }}
{{- range list "policy.yaml" "fx.yaml" }}
{{- if not (hasKey $values.policy.files .) }}
{{- fail (printf "\n\npolicy.files has no %s: a policy pack is policy.yaml, fx.yaml and the lists that it names. helm --set-file 'policy.files.%s=FILE' puts it there.\n" . (replace "." "\\." .)) }}
{{- end }}
{{- end }}
{{- end }}
{{- with $values.serving.kserve.canary }}
{{- if and .name (ne $values.serving.mode "kserve") }}
{{- fail "\n\nserving.kserve.canary is given and serving.mode is deployment: only KServe makes a second predictor.\n" }}
{{- end }}
{{- if and .name (not .storageUri) }}
{{- fail "\n\nserving.kserve.canary.storageUri is empty: name the release that the canary tries.\n" }}
{{- end }}
{{- if and .name (eq .name $values.serving.kserve.predictorName) }}
{{- fail "\n\nserving.kserve.canary.name is the stable predictor's: to promote the canary set predictorName to its name, model.storageUri to its release, and empty canary.name.\n" }}
{{- end }}
{{- end }}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) }}
{{- fail "\n\nhttpRoute.enabled is true and httpRoute.parentRefs is empty: name the gateway, [{name: ..., namespace: ...}].\n" }}
{{- end }}
{{- if gt (int $values.sync.autoscaling.minReplicas) (int $values.sync.autoscaling.maxReplicas) }}
{{- fail "\n\nsync.autoscaling.minReplicas is more than maxReplicas.\n" }}
{{- end }}
{{- if gt (int $values.stream.autoscaling.minReplicas) (int $values.stream.autoscaling.maxReplicas) }}
{{- fail "\n\nstream.autoscaling.minReplicas is more than maxReplicas.\n" }}
{{- end }}
{{- include "sluice.validateKafka" . }}
{{- include "sluice.validateStore" . }}
{{- include "sluice.validateAccess" . }}
{{- include "sluice.validateStorage" . }}
{{- include "sluice.validateArchive" . }}
{{- include "sluice.validateLog" . }}
{{- include "sluice.validateAirflow" . }}
{{- end }}

{{- define "sluice.validateArchive" -}}
{{- $archiver := .Values.archiver -}}
{{- $disk := $archiver.persistence -}}
{{- $there := "archiver.root puts it on object storage instead" -}}
{{- if $archiver.root }}
{{- if $disk.existingClaim }}
{{- fail "\n\narchiver.root puts the archive on object storage and archiver.persistence.existingClaim names a volume for it: one of them. What the volume holds is copied to the bucket first, under the same names.\n" }}
{{- end }}
{{- else }}
{{- if and .Values.labeller.enabled .Values.labeller.lookUp (or (not $disk.enabled) (ne $disk.accessMode "ReadWriteMany")) }}
{{- fail (printf "\n\nlabeller.lookUp is on: it reads the archive beside the archiver. Set archiver.persistence.enabled, and its accessMode to ReadWriteMany, with a storage class that can; %s; or have reports name the entities themselves.\n" $there) }}
{{- end }}
{{- if and .Values.airflow.enabled (not $disk.enabled) }}
{{- fail (printf "\n\nairflow.enabled is true and archiver.persistence.enabled is false: training sets come from the archive, which would end with its pod. %s.\n" $there) }}
{{- end }}
{{- if and .Values.airflow.enabled (ne $disk.accessMode "ReadWriteMany") }}
{{- fail (printf "\n\nairflow.enabled is true: steps read the archive on whatever node they run. Set archiver.persistence.accessMode to ReadWriteMany, with a storage class that can. %s.\n" $there) }}
{{- end }}
{{- if and (gt (int $archiver.replicas) 1) (ne $disk.accessMode "ReadWriteMany") }}
{{- fail (printf "\n\narchiver.replicas is more than 1: all replicas write one folder. Set archiver.persistence.accessMode to ReadWriteMany, with a storage class that can. %s.\n" $there) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.validateStorage" -}}
{{- $storage := .Values.storage -}}
{{- $urls := dict "archiver.root" .Values.archiver.root "model.registry" .Values.model.registry -}}
{{- if compact (values $urls) }}
{{- if and $storage.caSecret (not (hasPrefix "https:" $storage.endpoint)) }}
{{- fail "\n\nstorage.caSecret is given and storage.endpoint is no https URL: the certificates of AWS, Google and Azure lead to the image's own.\n" }}
{{- end }}
{{- range $key, $url := $urls }}
{{- if and $url (or $storage.endpoint $storage.region) (not (hasPrefix "s3:" $url)) }}
{{- fail (printf "\n\nstorage.endpoint and storage.region are of S3, and %s is %s.\n" $key $url) }}
{{- end }}
{{- end }}
{{- else }}
{{- range $key, $value := $storage }}
{{- if $value }}
{{- fail (printf "\n\nstorage.%s is given and nothing lies there: the archive is on a volume. Give its URL in archiver.root, s3://BUCKET/PREFIX, or that of a registry in model.registry.\n" $key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.validateAirflow" -}}
{{- $airflow := .Values.airflow -}}
{{- if $airflow.enabled }}
{{- if not $airflow.dags.repository }}
{{- fail "\n\nairflow.dags.repository is empty: name the git repository with the DAGs, of this project or a copy of yours.\n" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.validateKafka" -}}
{{- $kafka := .Values.kafka.external -}}
{{- if eq .Values.kafka.mode "external" }}
{{- if not $kafka.bootstrap }}
{{- fail "\n\nkafka.external.bootstrap is empty: give the brokers as host:port, comma separated. To try Sluice without a Kafka of your own: kafka.mode=dev; with Strimzi's operator: kafka.mode=strimzi.\n" }}
{{- end }}
{{- if hasPrefix "SASL" $kafka.securityProtocol }}
{{- $components := list "decider-sync" "decider-stream" "featurizer" "archiver" "topics" -}}
{{- if .Values.labeller.enabled }}
{{- $components = append $components "labeller" -}}
{{- end }}
{{- if .Values.auditor.enabled }}
{{- $components = append $components "auditor" -}}
{{- end }}
{{- if .Values.airflow.enabled }}
{{- $components = append $components "steps" -}}
{{- end }}
{{- range $component := $components }}
{{- if not (get $kafka.existingSecrets $component | default $kafka.existingSecret) }}
{{- fail (printf "\n\nkafka.external.securityProtocol is %s and no secret holds the user of %s. Name one in kafka.external.existingSecrets.%s, or one for all in kafka.external.existingSecret; its keys are %s and %s.\n" $kafka.securityProtocol $component $component $kafka.secretKeys.username $kafka.secretKeys.password) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.validateStore" -}}
{{- $store := .Values.store.external -}}
{{- if eq .Values.store.mode "external" }}
{{- range $user := list "decider" "featurizer" }}
{{- if not (or $store.url (get $store.existingSecrets $user) $store.existingSecret) }}
{{- fail (printf "\n\nstore.external has no address for the %s. Name a secret whose key %s holds a URL with user and password in store.external.existingSecrets.%s or store.external.existingSecret, or give store.external.url for a store without a password; store.mode=dev starts one Valkey to try Sluice with.\n" $user $store.urlKey $user) }}
{{- end }}
{{- end }}
{{- if contains "@" $store.url }}
{{- fail "\n\nstore.external.url holds a password, which would stand in the release's values for everyone to read. Put the URL into a secret and name it in store.external.existingSecret.\n" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.validateAccess" -}}
{{- $access := .Values.access -}}
{{- if eq $access.mode "required" }}
{{- if not (or $access.issuer $access.clientCaSecret) }}
{{- fail "\n\naccess.mode is required and no credential is taken. Give access.issuer, access.audience and access.keys for bearer tokens, or access.clientCaSecret and access.clients for client certificates. access.mode=none lets everyone who reaches the sync API ask.\n" }}
{{- end }}
{{- if $access.issuer }}
{{- if not (and $access.audience (or $access.keys $access.keysConfigMap)) }}
{{- fail "\n\naccess.issuer is given: tokens cannot be verified without access.audience and access.keys (an https URL) or access.keysConfigMap.\n" }}
{{- end }}
{{- end }}
{{- if and $access.clientCaSecret (not .Values.tls.existingSecret) }}
{{- fail "\n\naccess.clientCaSecret is given and tls.existingSecret is not: a client shows its certificate only to a server that has one. Name a secret with tls.crt and tls.key.\n" }}
{{- end }}
{{- if and $access.clientCaSecret (not $access.issuer) (not $access.clients) }}
{{- fail "\n\naccess.clientCaSecret is given and access.clients is empty: nobody would be known by a certificate. List certificate, tenants and scopes.\n" }}
{{- end }}
{{- if and $access.clients (not $access.clientCaSecret) }}
{{- fail "\n\naccess.clients lists certificates and none is asked for. Name the secret with the clients' CA in access.clientCaSecret.\n" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.validateLog" -}}
{{- $auditor := .Values.auditor -}}
{{- if $auditor.enabled }}
{{- if and (gt (int $auditor.shards) 1) (or (not $auditor.persistence.enabled) (ne $auditor.keystore.persistence.accessMode "ReadWriteMany")) }}
{{- fail "\n\nauditor.shards is more than 1: all shards share one keystore. Set auditor.persistence.enabled, and auditor.keystore.persistence.accessMode to ReadWriteMany, with a storage class whose file system has POSIX locks (NFS 4, CephFS).\n" }}
{{- end }}
{{- if and $auditor.keystore.wrappingSecret $auditor.keystore.kmsKey }}
{{- fail "\n\nauditor.keystore has a wrappingSecret and a kmsKey: one of them wraps the root keys.\n" }}
{{- end }}
{{- if and $auditor.timeStamp.url (not $auditor.timeStamp.rootsConfigMap) }}
{{- fail "\n\nauditor.timeStamp.url is given and no stamp could be verified: name a ConfigMap with the authority's root certificates, roots.pem, in auditor.timeStamp.rootsConfigMap.\n" }}
{{- end }}
{{- end }}
{{- with .Values.witness }}
{{- if .enabled }}
{{- if not .name }}
{{- fail "\n\nwitness.name is empty: a cosignature says whose it is, like bank.example/witness-1.\n" }}
{{- end }}
{{- if not .keySecret }}
{{- fail "\n\nwitness.keySecret is empty: name the secret whose key.pem cosigns. sluice log keygen --witness makes one.\n" }}
{{- end }}
{{- if not .logs }}
{{- fail "\n\nwitness.logs is empty: list the verifier keys of the logs that it cosigns.\n" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
