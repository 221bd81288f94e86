{{- define "egret.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "egret.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "egret.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* At most 52 characters: a CronJob appends eleven to the names of its jobs. Arguments: the
       root, a word. */ -}}
{{- define "egret.cronName" -}}
{{- $word := last . -}}
{{- include "egret.fullname" (first .) | trunc (int (sub 51 (len $word))) | trimSuffix "-" }}-{{ $word }}
{{- end -}}

{{- define "egret.selector" -}}
app.kubernetes.io/name: {{ include "egret.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* The pods that send canary requests. */ -}}
{{- define "egret.canarySelector" -}}
app.kubernetes.io/name: {{ include "egret.name" . }}-attached
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "egret.labels" -}}
{{ include "egret.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* For Argo CD: before the job that migrates, whose pod needs it. */ -}}
{{- define "egret.argoFirst" -}}
argocd.argoproj.io/sync-wave: "-2"
{{- end -}}

{{- define "egret.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "egret.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "egret.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "egret.envoyImage" -}}
{{- $envoy := .Values.envoy -}}
{{- if $envoy.digest -}}
{{ regexReplaceAll "(:[^/:@]+)?(@.*)?$" $envoy.image "" }}@{{ $envoy.digest }}
{{- else -}}
{{ $envoy.image }}
{{- end -}}
{{- end -}}

{{- /* How a probe asks Envoy: over its port of metrics, or, with a configuration of your own or
       without that port, whether its port of clients takes connections. */ -}}
{{- define "egret.envoyProbe" -}}
{{- if and .root.Values.envoy.metrics.enabled (not .root.Values.envoy.config) -}}
httpGet: {path: {{ .path }}, port: envoy-metrics}
{{- else -}}
tcpSocket: {port: https}
{{- end -}}
{{- end -}}

{{- /* The Secret with the DSNs: yours, the store's, or one of the release. */ -}}
{{- define "egret.postgresSecret" -}}
{{- .Values.postgres.existingSecret | default (printf "%s-postgres" (include "egret.fullname" .)) -}}
{{- end -}}

{{- define "egret.credentialsSecret" -}}
{{- .Values.envoy.credentials.existingSecret | default (printf "%s-providers" (include "egret.fullname" .)) -}}
{{- end -}}

{{- /* Something where the release has an Envoy whose metrics are served. */ -}}
{{- define "egret.hasEnvoyMetrics" -}}
{{- if and (eq .Values.mode "sidecar") .Values.envoy.metrics.enabled }}yes{{ end -}}
{{- end -}}

{{- /* Names of the providers that are proxied, separated by spaces. */ -}}
{{- define "egret.providers" -}}
{{- $names := list -}}
{{- range $name, $provider := .Values.envoy.providers -}}
{{- if $provider.enabled -}}{{- $names = append $names $name -}}{{- end -}}
{{- end -}}
{{- join " " $names -}}
{{- end -}}
