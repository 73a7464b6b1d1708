{{/* The sync API's container, whoever makes the pod. */}}
{{- define "sluice.syncContainer" -}}
{{- $it := dict "root" . "component" "decider-sync" -}}
name: kserve-container
{{ include "sluice.container" $it }}
args: [services.decider.main, sync]
env:
  {{- include "sluice.env" $it | nindent 2 }}
ports:
  # The admin port is not among them: KServe would put it into its Service.
  - {name: http1, containerPort: 8080, protocol: TCP}
{{ include "sluice.probes" (dict "port" 9090) }}
lifecycle:
  # Until every proxy has heard that this pod leaves; then SIGTERM, and decider.drain_s.
  preStop: {sleep: {seconds: {{ .Values.sync.preStopSeconds }}}}
resources: {{- toYaml .Values.sync.resources | nindent 2 }}
volumeMounts:
  {{- printf "%s%s%s" (include "sluice.mounts" $it) (include "sluice.deciderMounts" $it) (include "sluice.accessMounts" .) | nindent 2 }}
{{- end }}

{{- define "sluice.syncVolumes" -}}
{{- $it := dict "root" . "component" "decider-sync" -}}
{{ include "sluice.volumes" $it }}
{{- include "sluice.deciderVolumes" $it }}
{{- include "sluice.accessVolumes" . }}
{{- end }}
