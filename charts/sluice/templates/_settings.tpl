{{/* What Sluice's settings become in a pod: the brokers and the store as variables, because the Job
     that makes the topics runs before any ConfigMap is there; the rest in sluice.yaml. */}}

{{/* The brokers as one component reaches them; the test does as the sync API. Returns YAML: bootstrap, protocol, mechanism, ca
     {name, key}, user (a secret), keys {username, password, certificate, privateKey}. */}}
{{- define "sluice.kafka" -}}
{{- $kafka := .root.Values.kafka -}}
{{- $full := include "sluice.fullname" .root -}}
{{- if eq $kafka.mode "dev" -}}
bootstrap: {{ $full }}-kafka:9092
protocol: PLAINTEXT
{{- else if eq $kafka.mode "strimzi" -}}
bootstrap: {{ $full }}-kafka-bootstrap:9093
protocol: SSL
ca: {name: {{ $full }}-cluster-ca-cert, key: ca.crt}
user: {{ $full }}-{{ ternary "decider-sync" .component (eq .component "test") }}
keys: {certificate: user.crt, privateKey: user.key}
{{- else -}}
bootstrap: {{ $kafka.external.bootstrap | quote }}
protocol: {{ $kafka.external.securityProtocol }}
mechanism: {{ $kafka.external.saslMechanism }}
{{- with $kafka.external.caSecret }}
ca: {name: {{ . }}, key: {{ $kafka.external.caKey }}}
{{- end }}
user: {{ get $kafka.external.existingSecrets (ternary "decider-sync" .component (eq .component "test")) | default $kafka.external.existingSecret | quote }}
keys: {{- toYaml $kafka.external.secretKeys | nindent 2 }}
{{- end -}}
{{- end }}

{{- define "sluice.kafkaEnv" -}}
{{- $kafka := include "sluice.kafka" . | fromYaml -}}
- {name: SLUICE_KAFKA_BOOTSTRAP, value: {{ $kafka.bootstrap | quote }}}
{{- with .root.Values.kafka.topicPrefix }}
- {name: SLUICE_KAFKA_TOPIC_PREFIX, value: {{ . | quote }}}
{{- end }}
{{- if ne $kafka.protocol "PLAINTEXT" }}
- {name: SLUICE_KAFKA_SECURITY_PROTOCOL, value: {{ $kafka.protocol }}}
{{- end }}
{{- if hasPrefix "SASL" $kafka.protocol }}
- {name: SLUICE_KAFKA_SASL_MECHANISM, value: {{ $kafka.mechanism }}}
- name: SLUICE_KAFKA_SASL_USERNAME
  valueFrom: {secretKeyRef: {name: {{ $kafka.user }}, key: {{ $kafka.keys.username }}}}
- name: SLUICE_KAFKA_SASL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $kafka.user }}, key: {{ $kafka.keys.password }}}}
{{- end }}
{{- if $kafka.ca }}
- {name: SLUICE_KAFKA_CA_FILE, value: /etc/sluice/kafka-ca/ca.crt}
{{- end }}
{{- if and (eq $kafka.protocol "SSL") $kafka.user }}
- {name: SLUICE_KAFKA_CERT_FILE, value: /etc/sluice/kafka/tls.crt}
- {name: SLUICE_KAFKA_KEY_FILE, value: /etc/sluice/kafka/tls.key}
{{- end }}
{{- end }}

{{- define "sluice.kafkaMounts" -}}
{{- $kafka := include "sluice.kafka" . | fromYaml -}}
{{- if $kafka.ca }}
- {name: kafka-ca, mountPath: /etc/sluice/kafka-ca, readOnly: true}
{{- end }}
{{- if and (eq $kafka.protocol "SSL") $kafka.user }}
- {name: kafka-user, mountPath: /etc/sluice/kafka, readOnly: true}
{{- end }}
{{- end }}

{{- define "sluice.kafkaVolumes" -}}
{{- $kafka := include "sluice.kafka" . | fromYaml -}}
{{- with $kafka.ca }}
- name: kafka-ca
  secret: {secretName: {{ .name }}, items: [{key: {{ .key }}, path: ca.crt}]}
{{- end }}
{{- if and (eq $kafka.protocol "SSL") $kafka.user }}
- name: kafka-user
  secret:
    secretName: {{ $kafka.user }}
    items:
      - {key: {{ $kafka.keys.certificate }}, path: tls.crt}
      - {key: {{ $kafka.keys.privateKey }}, path: tls.key}
{{- end }}
{{- end }}

{{/* Whose user of the store: decider or featurizer; "" where a component has none. */}}
{{- define "sluice.storeUser" -}}
{{- if or (hasPrefix "decider" .component) (eq .component "test") -}}decider
{{- else if eq .component "featurizer" -}}featurizer
{{- end -}}
{{- end }}

{{- define "sluice.storeEnv" -}}
{{- $store := .root.Values.store -}}
{{- $user := include "sluice.storeUser" . -}}
{{- if eq $store.mode "dev" }}
- {name: SLUICE_STORE_URL, value: "redis://{{ include "sluice.fullname" .root }}-store:6379/0"}
{{- else }}
{{- $secret := get $store.external.existingSecrets $user | default $store.external.existingSecret }}
{{- if $secret }}
- name: SLUICE_STORE_URL
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ $store.external.urlKey }}}}
{{- else }}
- {name: SLUICE_STORE_URL, value: {{ $store.external.url | quote }}}
{{- end }}
{{- if $store.external.caSecret }}
- {name: SLUICE_STORE_CA_FILE, value: /etc/sluice/store-ca/ca.crt}
{{- end }}
{{- if $store.external.certSecret }}
- {name: SLUICE_STORE_CERT_FILE, value: /etc/sluice/store/tls.crt}
- {name: SLUICE_STORE_KEY_FILE, value: /etc/sluice/store/tls.key}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.storeMounts" -}}
{{- if eq .root.Values.store.mode "external" }}
{{- if .root.Values.store.external.caSecret }}
- {name: store-ca, mountPath: /etc/sluice/store-ca, readOnly: true}
{{- end }}
{{- if .root.Values.store.external.certSecret }}
- {name: store-user, mountPath: /etc/sluice/store, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.storeVolumes" -}}
{{- if eq .root.Values.store.mode "external" }}
{{- with .root.Values.store.external.caSecret }}
- {name: store-ca, secret: {secretName: {{ . }}}}
{{- end }}
{{- with .root.Values.store.external.certSecret }}
- {name: store-user, secret: {secretName: {{ . }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* Variables of a service: sluice.yaml, brokers, store, secrets. The consistency check asks no broker. */}}
{{- define "sluice.env" -}}
- {name: SLUICE_CONFIG, value: /etc/sluice/config/sluice.yaml}
{{- if or (hasPrefix "decider" .component) (eq .component "auditor") }}
{{- with .root.Values.image.digest }}
- {name: SLUICE_SERVICE_IMAGE_DIGEST, value: {{ . }}}
{{- end }}
{{- end }}
{{- if ne .component "consistency" }}
{{ include "sluice.kafkaEnv" . }}
{{- end }}
{{- if include "sluice.storeUser" . }}
{{- include "sluice.storeEnv" . }}
{{- end }}
{{- with .root.Values.logIdKey.existingSecret }}
- name: SLUICE_SERVICE_LOG_ID_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.root.Values.logIdKey.key }}}}
{{- end }}
{{- if hasPrefix "decider" .component }}
{{- with .root.Values.letThroughKey.existingSecret }}
- name: SLUICE_DECIDER_LET_THROUGH_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.root.Values.letThroughKey.key }}}}
{{- end }}
{{- end }}
{{- if include "sluice.objects" . }}
{{- include "sluice.objectsEnv" (dict "prefix" "SLUICE_STORAGE" "at" .root.Values.storage) }}
{{- if .root.Values.storage.caSecret }}
- {name: SLUICE_STORAGE_CA_FILE, value: /etc/sluice/storage-ca/ca.crt}
{{- end }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "sluice.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: config, mountPath: /etc/sluice/config, readOnly: true}
{{- if ne .component "consistency" }}
{{- include "sluice.kafkaMounts" . }}
{{- end }}
{{- if include "sluice.storeUser" . }}
{{- include "sluice.storeMounts" . }}
{{- end }}
{{- if and .root.Values.storage.caSecret (include "sluice.objects" .) }}
- {name: storage-ca, mountPath: /etc/sluice/storage-ca, readOnly: true}
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "sluice.volumes" -}}
{{- /* The consistency check is in the archiver's pod. */}}
{{- $check := ternary (include "sluice.objects" (dict "root" .root "component" "consistency")) "" (eq .component "archiver") -}}
{{- $copies := and .root.Values.model.registry (or $check (hasPrefix "decider" .component) (eq .component "steps")) -}}
- {name: tmp, emptyDir: {sizeLimit: {{ if $copies }}{{ .root.Values.model.initializer.sizeLimit }}{{ else }}256Mi{{ end }}}}
- {name: config, configMap: {name: {{ include "sluice.fullname" .root }}-config}}
{{- include "sluice.kafkaVolumes" . }}
{{- if include "sluice.storeUser" . }}
{{- include "sluice.storeVolumes" . }}
{{- end }}
{{- if and .root.Values.storage.caSecret (or $check (include "sluice.objects" .)) }}
- {name: storage-ca, secret: {secretName: {{ .root.Values.storage.caSecret }}}}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Policy and trusted keys of a decider, followed: the kubelet brings a change within a minute. */}}
{{- define "sluice.policyDir" -}}
{{ if or .Values.policy.files .Values.policy.existingConfigMap }}/etc/sluice/policies/{{ .Values.policy.name }}{{ else }}/app/policies/default{{ end }}
{{- end }}

{{- define "sluice.trustDir" -}}
{{ if .Values.trust.shipped }}/app/policies/trust{{ else }}/etc/sluice/trust{{ end }}
{{- end }}

{{- define "sluice.deciderMounts" -}}
{{- if or .root.Values.policy.files .root.Values.policy.existingConfigMap }}
- {name: policy, mountPath: {{ include "sluice.policyDir" .root }}, readOnly: true}
{{- end }}
{{- if not .root.Values.trust.shipped }}
- {name: trust, mountPath: /etc/sluice/trust, readOnly: true}
{{- end }}
{{- end }}

{{- define "sluice.deciderVolumes" -}}
{{- $full := include "sluice.fullname" .root -}}
{{- with .root.Values.policy }}
{{- if .existingConfigMap }}
- {name: policy, configMap: {name: {{ .existingConfigMap }}}}
{{- else if .files }}
- name: policy
  configMap:
    name: {{ $full }}-policy
    items:
      {{- range $path, $_ := .files }}
      - {key: {{ $path | replace "/" "__" }}, path: {{ $path }}}
      {{- end }}
{{- end }}
{{- end }}
{{- if not .root.Values.trust.shipped }}
- {name: trust, configMap: {name: {{ .root.Values.trust.existingConfigMap | default (printf "%s-trust" $full) }}}}
{{- end }}
{{- end }}

{{/* How KServe brings a release to a pod: claim, image, or download. "" for what it does not read, and
     where deciders follow a registry. */}}
{{- define "sluice.modelBy" -}}
{{- $scheme := regexFind "^[a-z0-9+]+://[^/]" .Values.model.storageUri | regexFind "^[a-z0-9+]+" -}}
{{- if eq $scheme "pvc" -}}claim
{{- else if has $scheme (list "oci" "oci+native" "oci+fetch") -}}image
{{- else if has $scheme (list "s3" "gs" "https" "http" "hdfs" "webhdfs" "hf") -}}download
{{- end -}}
{{- end }}

{{/* The release in a pod that KServe does not make. */}}
{{- define "sluice.modelMount" -}}
{{- $uri := .Values.model.storageUri -}}
{{- $by := include "sluice.modelBy" . -}}
{{- if eq $by "claim" }}
{{- $path := regexReplaceAll "^pvc://[^/]+/?" $uri "" | trimSuffix "/" }}
- {name: model, mountPath: /mnt/models, readOnly: true{{ if $path }}, subPath: {{ $path }}{{ end }}}
{{- else if eq $by "image" }}
- {name: model, mountPath: /mnt/models, readOnly: true, subPath: models}
{{- else if eq $by "download" }}
- {name: model, mountPath: /mnt/models, readOnly: true}
{{- end }}
{{- end }}

{{- define "sluice.modelVolume" -}}
{{- $uri := .Values.model.storageUri -}}
{{- $by := include "sluice.modelBy" . -}}
{{- if eq $by "claim" }}
- {name: model, persistentVolumeClaim: {claimName: {{ regexFind "^[^/]+" (trimPrefix "pvc://" $uri) }}, readOnly: true}}
{{- else if eq $by "image" }}
- {name: model, image: {reference: {{ regexReplaceAll "^oci[a-z+]*://" $uri "" }}, pullPolicy: IfNotPresent}}
{{- else if eq $by "download" }}
- {name: model, emptyDir: {sizeLimit: {{ .Values.model.initializer.sizeLimit }}}}
{{- end }}
{{- end }}

{{/* KServe's own downloader, for s3:// and the like. */}}
{{- define "sluice.modelInitializer" -}}
{{- $uri := .Values.model.storageUri -}}
{{- $by := include "sluice.modelBy" . -}}
{{- if eq $by "download" }}
initContainers:
  - name: storage-initializer
    image: {{ include "sluice.image" (dict "image" .Values.model.initializer.image "tag" "latest") }}
    imagePullPolicy: IfNotPresent
    args: [{{ $uri | quote }}, /mnt/models]
    env:
      - {name: HOME, value: /tmp}
    {{- with .Values.model.credentialsSecret }}
    envFrom:
      - secretRef: {name: {{ . }}}
    {{- end }}
    resources: {{- toYaml .Values.model.initializer.resources | nindent 6 }}
    {{- include "sluice.confined" . | nindent 4 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: model, mountPath: /mnt/models}
{{- end }}
{{- end }}

{{/* sluice.yaml, the same for all services. What the chart sets is in no part of `settings`. */}}
{{- define "sluice.yaml" -}}
{{- $access := dict "mode" .Values.access.mode -}}
{{- if eq .Values.access.mode "required" }}
{{- with .Values.access }}
{{- if .issuer }}
{{- $access = merge $access (dict "issuer" .issuer "audience" .audience "keys" (ternary "/etc/sluice/keys/jwks.json" .keys (not (empty .keysConfigMap)))) }}
{{- end }}
{{- if .keysCaSecret }}
{{- $access = merge $access (dict "keys_ca_file" "/etc/sluice/keys-ca/ca.crt") }}
{{- end }}
{{- if .clients }}
{{- $access = merge $access (dict "clients_file" "/etc/sluice/config/clients.yaml") }}
{{- end }}
{{- end }}
{{- end }}
{{- $decider := dict "release_dir" (.Values.model.registry | default "/mnt/models") "policy_dir" (include "sluice.policyDir" . | trim) "trust_dir" (include "sluice.trustDir" . | trim) -}}
{{- $http := dict -}}
{{- if .Values.tls.existingSecret }}
{{- $http = dict "cert_file" "/etc/sluice/tls/tls.crt" "key_file" "/etc/sluice/tls/tls.key" }}
{{- end }}
{{- if and (eq .Values.access.mode "required") .Values.access.clientCaSecret }}
{{- $http = merge $http (dict "client_ca_file" "/etc/sluice/clients-ca/ca.crt") }}
{{- end }}
{{- $ours := dict "access" $access "decider" (merge $decider $http) -}}
{{- if .Values.labeller.enabled }}
{{- $ours = merge $ours (dict "labeller" (merge (dict "look_up" .Values.labeller.lookUp) $http)) }}
{{- end }}
{{- merge $ours (deepCopy .Values.settings) | toYaml }}
{{- end }}

{{/* Changes with what a service reads only as it starts, so that its pods are made anew. */}}
{{- define "sluice.checksum" -}}
checksum/config: {{ include "sluice.yaml" . | sha256sum }}
{{- end }}

{{/* Of the sync API and the labeller: their certificate, and whose credentials they take. */}}
{{- define "sluice.accessMounts" -}}
{{- if .Values.tls.existingSecret }}
- {name: tls, mountPath: /etc/sluice/tls, readOnly: true}
{{- end }}
{{- if eq .Values.access.mode "required" }}
{{- if .Values.access.clientCaSecret }}
- {name: clients-ca, mountPath: /etc/sluice/clients-ca, readOnly: true}
{{- end }}
{{- if .Values.access.keysConfigMap }}
- {name: keys, mountPath: /etc/sluice/keys, readOnly: true}
{{- end }}
{{- if .Values.access.keysCaSecret }}
- {name: keys-ca, mountPath: /etc/sluice/keys-ca, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.accessVolumes" -}}
{{- with .Values.tls.existingSecret }}
- {name: tls, secret: {secretName: {{ . }}}}
{{- end }}
{{- if eq .Values.access.mode "required" }}
{{- with .Values.access.clientCaSecret }}
- {name: clients-ca, secret: {secretName: {{ . }}}}
{{- end }}
{{- with .Values.access.keysConfigMap }}
- {name: keys, configMap: {name: {{ . }}}}
{{- end }}
{{- with .Values.access.keysCaSecret }}
- {name: keys-ca, secret: {secretName: {{ . }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* Where a server that speaks S3 is. (dict "prefix" "SLUICE_STORAGE" "at" endpoint and region) */}}
{{- define "sluice.objectsEnv" -}}
{{- with .at.endpoint }}
- {name: {{ $.prefix }}_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- with .at.region }}
- {name: {{ $.prefix }}_REGION, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{/* Which URL a component asks the object storage for, "" if none. (dict "root" $ "component" "archiver") */}}
{{- define "sluice.objects" -}}
{{- $values := .root.Values -}}
{{- $archive := $values.archiver.root -}}
{{- $either := $archive | default $values.model.registry -}}
{{- if hasPrefix "decider" .component -}}{{ $values.model.registry }}
{{- else if eq .component "archiver" -}}{{ $archive }}
{{- else if eq .component "consistency" -}}{{ ternary $either "" $values.consistency.enabled }}
{{- else if eq .component "labeller" -}}{{ ternary $archive "" (and $values.labeller.enabled $values.labeller.lookUp) }}
{{- else if eq .component "steps" -}}{{ ternary $either "" $values.airflow.enabled }}
{{- end -}}
{{- end }}

{{/* Its credentials: none where the account has an identity. Deciders only read, and have their own. */}}
{{- define "sluice.storageEnvFrom" -}}
{{- $secret := ternary .root.Values.model.credentialsSecret .root.Values.storage.credentialsSecret (hasPrefix "decider" .component) -}}
{{- if and $secret (include "sluice.objects" .) }}
envFrom:
  - secretRef: {name: {{ $secret }}}
{{- end }}
{{- end }}

{{/* The archive, as who reads or writes it finds it: a folder of a volume, or a URL. */}}
{{- define "sluice.archiveRoot" -}}
{{ .Values.archiver.root | default "/var/lib/sluice/archive" }}
{{- end }}

{{- define "sluice.archiveEnv" -}}
- {name: SLUICE_ARCHIVER_ROOT, value: {{ include "sluice.archiveRoot" . | trim | quote }}}
{{- end }}

{{/* (dict "root" $ "readOnly" true) */}}
{{- define "sluice.archiveMounts" -}}
{{- if not .root.Values.archiver.root }}
- {name: archive, mountPath: /var/lib/sluice{{ if .readOnly }}, readOnly: true{{ end }}}
{{- end }}
{{- end }}

{{- define "sluice.archiveVolumes" -}}
{{- $disk := .root.Values.archiver.persistence -}}
{{- if not .root.Values.archiver.root }}
{{- if $disk.enabled }}
- {name: archive, persistentVolumeClaim: {claimName: {{ default (printf "%s-archive" (include "sluice.fullname" .root)) $disk.existingClaim }}{{ if .readOnly }}, readOnly: true{{ end }}}}
{{- else }}
- {name: archive, emptyDir: {sizeLimit: {{ $disk.size }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* The auditor's own settings are variables of its pod: turned on or changed, they restart nothing else. */}}
{{- define "sluice.auditorEnv" -}}
{{- $auditor := .Values.auditor -}}
- name: SLUICE_AUDITOR_SHARD
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}
- {name: SLUICE_AUDITOR_SHARDS, value: {{ $auditor.shards | quote }}}
- {name: SLUICE_AUDITOR_ENVIRONMENT, value: {{ default (printf "%s.%s" (include "sluice.fullname" .) .Release.Namespace) $auditor.environment | quote }}}
- {name: SLUICE_AUDITOR_CELL, value: {{ $auditor.cell | quote }}}
- {name: SLUICE_AUDITOR_ROOT, value: /var/lib/sluice/log}
- {name: SLUICE_AUDITOR_MAKE_KEYS, value: "true"}
- {name: SLUICE_AUDITOR_KEY_FILE, value: {{ ternary "/etc/sluice/log-key/key.pem" "/var/lib/sluice-keys/log/$(SLUICE_AUDITOR_SHARD).pem" (not (empty $auditor.keySecret)) }}}
- {name: SLUICE_KEYSTORE_PATH, value: /var/lib/sluice-keys/keystore/keys.sqlite}
- {name: SLUICE_KEYSTORE_ROOTS, value: /var/lib/sluice-keys/roots/roots.json}
- {name: SLUICE_KEYSTORE_COPIES, value: /var/lib/sluice/keystore-copies}
- {name: SLUICE_KEYSTORE_GRANTS, value: {{ ternary "/etc/sluice/grants" "/var/lib/sluice-keys/grants" (not (empty $auditor.grantsConfigMap)) }}}
{{- if $auditor.keystore.wrappingSecret }}
- {name: SLUICE_KEYSTORE_WRAPPER, value: "file:/etc/sluice/wrapping-key/key"}
{{- else if $auditor.keystore.kmsKey }}
- {name: SLUICE_KEYSTORE_WRAPPER, value: {{ printf "kms:%s" $auditor.keystore.kmsKey | quote }}}
{{- end }}
{{- if $auditor.witnesses }}
- {name: SLUICE_AUDITOR_WITNESSES_FILE, value: /etc/sluice/witnesses/witnesses}
{{- end }}
{{- if $auditor.caSecret }}
- {name: SLUICE_AUDITOR_CA_FILE, value: /etc/sluice/log-ca/ca.crt}
{{- end }}
{{- with $auditor.copy }}
{{- if .bucket }}
- {name: SLUICE_AUDITOR_COPY_BUCKET, value: {{ .bucket | quote }}}
{{- include "sluice.objectsEnv" (dict "prefix" "SLUICE_AUDITOR_COPY" "at" .) }}
{{- with .retainDays }}
- {name: SLUICE_AUDITOR_COPY_RETAIN_DAYS, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- with $auditor.timeStamp }}
{{- if .url }}
- {name: SLUICE_AUDITOR_TIME_STAMP_URL, value: {{ .url | quote }}}
- {name: SLUICE_AUDITOR_TIME_STAMP_ROOTS_FILE, value: /etc/sluice/time-stamp/roots.pem}
{{- end }}
{{- end }}
{{- end }}

{{/* What it reads of secrets and ConfigMaps, as volumes. */}}
{{- define "sluice.auditorVolumes" -}}
{{- $auditor := .Values.auditor -}}
{{- with $auditor.keySecret }}
- {name: log-key, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- with $auditor.keystore.wrappingSecret }}
- {name: wrapping-key, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- with $auditor.grantsConfigMap }}
- {name: grants, configMap: {name: {{ . }}}}
{{- end }}
{{- if $auditor.witnesses }}
- {name: witnesses, configMap: {name: {{ include "sluice.fullname" . }}-auditor}}
{{- end }}
{{- with $auditor.caSecret }}
- {name: log-ca, secret: {secretName: {{ . }}}}
{{- end }}
{{- if $auditor.timeStamp.url }}
- {name: time-stamp, configMap: {name: {{ $auditor.timeStamp.rootsConfigMap }}}}
{{- end }}
{{- end }}

{{- define "sluice.auditorMounts" -}}
{{- range include "sluice.auditorVolumes" . | fromYamlArray }}
- {name: {{ .name }}, mountPath: /etc/sluice/{{ .name }}, readOnly: true}
{{- end }}
{{- end }}

{{/* Ports of what the auditor asks, as they stand in its URLs. */}}
{{- define "sluice.logPorts" -}}
{{- $auditor := .Values.auditor -}}
{{- $urls := list -}}
{{- range $auditor.witnesses }}
{{- $urls = append $urls .url }}
{{- end }}
{{- if $auditor.copy.bucket }}
{{- $urls = append $urls (default "https://s3" $auditor.copy.endpoint) }}
{{- end }}
{{- if $auditor.keystore.kmsKey }}
{{- $urls = append $urls "https://kms" }}
{{- end }}
{{- with $auditor.timeStamp.url }}
{{- $urls = append $urls . }}
{{- end }}
{{- include "sluice.ports" (dict "urls" $urls "ports" .Values.networkPolicy.log.ports) }}
{{- end }}

{{/* Ports of a network policy: of some URLs, and others. (dict "urls" … "ports" …) */}}
{{- define "sluice.ports" -}}
{{- $ports := .ports -}}
{{- range .urls }}
{{- $ports = append $ports (regexFind ":[0-9]+" (regexReplaceAll "^https?://[^:/]*" . "") | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https:" .)) | int) }}
{{- end }}
{{- range $ports | uniq }}
- {port: {{ . }}, protocol: TCP}
{{- end }}
{{- end }}
