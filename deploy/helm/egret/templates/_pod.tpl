{{- define "egret.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "egret.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Settings of workers. */ -}}
{{- define "egret.env" -}}
- name: EGRET_SERVER__WORKERS
  value: {{ .Values.workers | quote }}
- name: EGRET_SERVER__SOCKET_DIRECTORY
  value: /run/egret/sockets
- name: EGRET_SERVER__DRAIN_DELAY_SECONDS
  value: {{ .Values.drain.delaySeconds | quote }}
- name: EGRET_SERVER__DRAIN_GRACE_SECONDS
  value: {{ .Values.drain.graceSeconds | quote }}
- name: EGRET_USAGE__SPOOL_DIRECTORY
  value: /var/lib/egret/usage
- name: EGRET_TELEMETRY__METRICS_HOST
  value: 0.0.0.0
- name: EGRET_TELEMETRY__METRICS_PORT
  value: "9464"
{{- if eq .Values.mode "standalone" }}
- name: EGRET_LISTEN__HOST
  value: 0.0.0.0
- name: EGRET_LISTEN__PORT
  value: {{ .Values.listen.port | quote }}
- name: EGRET_LISTEN__TLS
  value: {{ .Values.listen.tls | quote }}
{{- if eq .Values.listen.tls "mutual" }}
- name: EGRET_LISTEN__CERTIFICATE_FILE
  value: /etc/egret/tls/tls.crt
- name: EGRET_LISTEN__KEY_FILE
  value: /etc/egret/tls/tls.key
- name: EGRET_LISTEN__CLIENT_CA_FILE
  value: /etc/egret/tls/ca.crt
{{- end }}
{{- end }}
{{- if .Values.valkey.existingSecret }}
- name: EGRET_CACHE__L2_SECRET
  valueFrom: {secretKeyRef: {name: {{ .Values.valkey.existingSecret | quote }}, key: {{ .Values.valkey.l2SecretKey | quote }}}}
{{- end }}
{{- if and (eq .Values.mode "sidecar") .Values.envoy.modelRoutes }}
- name: EGRET_EXCHANGE__ROUTE_BY_MODEL
  value: "on"
{{- end }}
{{ include "egret.settings" . }}
{{- end -}}

{{- /* Settings that every container of Egret has: jobs and `egret admin` notify workers through
       Valkey too, where the settings say so. */ -}}
{{- define "egret.settings" -}}
{{- if .Values.valkey.existingSecret }}
- name: EGRET_VALKEY__URL
  valueFrom: {secretKeyRef: {name: {{ .Values.valkey.existingSecret | quote }}, key: {{ .Values.valkey.urlKey | quote }}}}
{{- end }}
{{- if include "egret.valkeyPasswordKey" . }}
- name: EGRET_VALKEY__PASSWORD_FILE
  value: /etc/egret/valkey/password
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  {{- /* As JSON: a number from a file of values is a float, and quoted would be 2.097152e+07. */}}
  value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}
{{- end }}
{{- range $name, $from := .Values.secretSettings }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ $from.secret | quote }}, key: {{ $from.key | quote }}}}
{{- end }}
{{- end -}}

{{- define "egret.container" -}}
name: egret
image: {{ include "egret.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
env:
  # From a file, which changes with the Secret: a new password needs no restart.
  - name: EGRET_POSTGRES__DSN_FILE
    value: /etc/egret/postgres/dsn
  {{- include "egret.env" . | nindent 2 }}
ports:
  - {name: metrics, containerPort: 9464}
{{- if eq .Values.mode "standalone" }}
  - {name: grpc, containerPort: {{ .Values.listen.port }}}
{{- end }}
# All over the sockets, which need no certificate. A worker that waits for its database serves, and
# refuses with 503: killing it would not help.
startupProbe:
  exec: {command: [egret, health, started]}
  periodSeconds: 2
  timeoutSeconds: 10
  failureThreshold: 60
readinessProbe:
  exec: {command: [egret, health, ready]}
  periodSeconds: 10
  timeoutSeconds: 10
livenessProbe:
  exec: {command: [egret, health, live]}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 3
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext: {{- include "egret.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: sockets, mountPath: /run/egret}
  - {name: usage, mountPath: /var/lib/egret}
  - {name: postgres, mountPath: /etc/egret/postgres, readOnly: true}
  {{- with include "egret.valkeyMount" . | trim }}{{ . | nindent 2 }}{{ end }}
  {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
  - {name: tmp, mountPath: /tmp}
{{- if and (eq .Values.mode "standalone") (eq .Values.listen.tls "mutual") }}
  - {name: tls, mountPath: /etc/egret/tls, readOnly: true}
{{- end }}
{{- end -}}

{{- /* Nothing where Valkey is not used. */ -}}
{{- define "egret.valkeyPasswordKey" -}}
{{- if .Values.valkey.existingSecret }}{{ .Values.valkey.passwordKey }}{{ end -}}
{{- end -}}

{{- define "egret.valkeyMount" -}}
{{- if include "egret.valkeyPasswordKey" . }}
- {name: valkey, mountPath: /etc/egret/valkey, readOnly: true}
{{- end }}
{{- end -}}

{{- define "egret.valkeyVolume" -}}
{{- with include "egret.valkeyPasswordKey" . }}
- name: valkey
  secret: {secretName: {{ $.Values.valkey.existingSecret | quote }}, items: [{key: {{ . | quote }}, path: password}], defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "egret.volumes" -}}
- name: sockets
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: usage
  {{- /* Room for the files of all workers, in GiB rounded up, and one more. */}}
  {{- $bytes := mul .Values.workers (int64 (.Values.settings.EGRET_USAGE__SPOOL_MAX_BYTES | default 1073741824)) }}
  {{- $spool := dict "emptyDir" (dict "sizeLimit" (printf "%dGi" (add 1 (div (add $bytes 1073741823) 1073741824)))) }}
  {{- toYaml (.Values.usageSpool.volume | default $spool) | nindent 2 }}
- name: postgres
  secret: {secretName: {{ include "egret.postgresSecret" . | quote }}, items: [{key: {{ .Values.postgres.key | quote }}, path: dsn}], defaultMode: 0440}
{{- with include "egret.valkeyVolume" . | trim }}{{ . | nindent 0 }}{{ end }}
{{- with .Values.extraVolumes }}{{ toYaml . | nindent 0 }}{{ end }}
- name: tmp
  emptyDir: {sizeLimit: 512Mi}
{{- if eq .Values.mode "sidecar" }}
- name: envoy-run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: envoy-config
  configMap: {name: {{ include "egret.fullname" . }}-envoy, items: [{key: envoy.json, path: envoy.json}]}
- name: server-certificate
  secret: {secretName: {{ .Values.envoy.tls.existingSecret | quote }}, defaultMode: 0440}
{{- if .Values.envoy.clientCertificates.existingSecret }}
- name: client-ca
  secret: {secretName: {{ .Values.envoy.clientCertificates.existingSecret | quote }}, items: [{key: ca.crt, path: ca.crt}], defaultMode: 0440}
{{- end }}
# One folder, so that Envoy notices when any of it is replaced.
- name: sds
  projected:
    defaultMode: 0440
    sources:
      - configMap:
          name: {{ include "egret.fullname" . }}-envoy
          items:
            - {key: server_certificate.yaml, path: server_certificate.yaml}
            {{- if .Values.envoy.clientCertificates.existingSecret }}
            - {key: client_ca.yaml, path: client_ca.yaml}
            {{- end }}
      - secret: {name: {{ include "egret.credentialsSecret" . | quote }}}
{{- else if eq .Values.listen.tls "mutual" }}
- name: tls
  secret: {secretName: {{ .Values.listen.existingSecret | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{- define "egret.placement" -}}
serviceAccountName: {{ include "egret.serviceAccount" . }}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
