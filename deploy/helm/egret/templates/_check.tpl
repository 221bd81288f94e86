{{- /* What the schema cannot say, in words that name what is missing. */ -}}
{{- define "egret.check" -}}
{{- if not .Values.image.repository -}}
{{- fail "no image: give image.repository, the registry path to which you pushed the image of `make image`" -}}
{{- end -}}
{{- $pg := .Values.postgres -}}
{{- $fromStore := and .Values.externalSecret.enabled .Values.externalSecret.postgres.dsn -}}
{{- if not (or $pg.existingSecret $pg.dsn $fromStore) -}}
{{- fail "no database: give postgres.existingSecret, postgres.dsn, or externalSecret.postgres.dsn" -}}
{{- end -}}
{{- if and .Values.externalSecret.enabled (not .Values.externalSecret.store.name) -}}
{{- fail "externalSecret.enabled needs externalSecret.store.name" -}}
{{- end -}}
{{- $set := .Values.installation -}}
{{- $sources := without (list (ternary "files" "" (not (empty $set.files))) $set.existingSecret $set.existingConfigMap) "" -}}
{{- if gt (len $sources) 1 -}}
{{- fail "installation: give one of files, existingSecret and existingConfigMap, not both or all" -}}
{{- end -}}
{{- if and (or $set.driftSchedule $set.prune $set.keySecrets) (not $sources) -}}
{{- fail "installation: driftSchedule, prune and keySecrets do nothing without files; give installation.files, installation.existingSecret or installation.existingConfigMap" -}}
{{- end -}}
{{- if and .Values.attachment.enabled (not (and .Values.attachment.url .Values.attachment.existingSecret)) -}}
{{- fail "attachment.enabled needs attachment.url, the address that clients use, and attachment.existingSecret with an API key" -}}
{{- end -}}
{{- if and .Values.admin.enabled (not (and .Values.admin.publicUrl .Values.admin.existingSecret)) -}}
{{- fail "admin.enabled needs admin.publicUrl, its https address in a browser, and admin.existingSecret with the DSN of a login of egret_console" -}}
{{- end -}}
{{- if eq .Values.mode "sidecar" -}}
{{- include "egret.checkSidecar" . -}}
{{- else -}}
{{- if gt (int .Values.workers) 1 -}}
{{- fail "workers: in standalone mode a pod has one worker, since its service has one port; raise replicas" -}}
{{- end -}}
{{- if eq (int .Values.listen.port) 9464 -}}
{{- fail "listen.port: 9464 is taken in the pod, by Egret's metrics" -}}
{{- end -}}
{{- if and (eq .Values.listen.tls "mutual") (not .Values.listen.existingSecret) -}}
{{- fail "no certificate: give listen.existingSecret with tls.crt, tls.key and ca.crt, or listen.tls=off where a mesh encrypts" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled would scale against each other: choose one" -}}
{{- end -}}
{{- if and .Values.keda.enabled (not .Values.keda.prometheusUrl) -}}
{{- fail "keda.enabled needs keda.prometheusUrl" -}}
{{- end -}}
{{- range $name := list "autoscaling" "keda" -}}
{{- $scaler := get $.Values $name -}}
{{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- fail (printf "%s.minReplicas is above %s.maxReplicas" $name $name) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := include "egret.selector" . | fromYaml -}}
{{- if hasKey $.Values.podLabels $name -}}
{{- fail (printf "podLabels: the chart selects its pods by %s; give another label" $name) -}}
{{- end -}}
{{- end -}}
{{- $store := .Values.externalSecret -}}
{{- if and $store.enabled $store.postgres.dsn $pg.dsn (not $pg.existingSecret) -}}
{{- fail "two sources of one Secret: give postgres.dsn, or externalSecret.postgres.dsn, not both" -}}
{{- end -}}
{{- /* Of two variables of one name the last would count, and the chart's own would not. */ -}}
{{- $names := list "EGRET_POSTGRES__DSN" "EGRET_POSTGRES__DSN_FILE" -}}
{{- if .Values.admin.enabled -}}
{{- $names = concat $names (list "EGRET_ADMIN__HOST" "EGRET_ADMIN__PORT" "EGRET_ADMIN__PUBLIC_URL") -}}
{{- end -}}
{{- range include "egret.env" . | fromYamlArray -}}
{{- if has .name $names -}}
{{- fail (printf "%s is twice in the environment: remove it from settings and secretSettings; other values (mode, workers, drain, listen, postgres, valkey, admin, envoy.modelRoutes) set it" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}

{{- define "egret.checkSidecar" -}}
{{- $envoy := .Values.envoy -}}
{{- if not $envoy.tls.existingSecret -}}
{{- fail "no server certificate: give envoy.tls.existingSecret, of type kubernetes.io/tls" -}}
{{- end -}}
{{- if and $envoy.metrics.enabled (has (int $envoy.metrics.port) (list 8443 9464)) -}}
{{- fail (printf "envoy.metrics.port: %d is taken in the pod, 8443 by Envoy and 9464 by Egret" (int $envoy.metrics.port)) -}}
{{- end -}}
{{- $names := include "egret.providers" . -}}
{{- if not (or $names $envoy.config) -}}
{{- fail "no provider: enable one of envoy.providers" -}}
{{- end -}}
{{- if and $envoy.modelRoutes (or $envoy.config (hasKey .Values.settings "EGRET_EXCHANGE__ROUTE_BY_MODEL")) -}}
{{- fail "envoy.modelRoutes: they are made for the chart's own configuration, and say themselves that Egret names models; leave them out beside envoy.config, and settings.EGRET_EXCHANGE__ROUTE_BY_MODEL beside them" -}}
{{- end -}}
{{- range $one := $envoy.modelRoutes -}}
{{- if not (get $envoy.providers $one.provider).enabled -}}
{{- fail (printf "envoy.modelRoutes: provider %s is off: envoy.providers.%s.enabled" $one.provider $one.provider) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.externalSecret.enabled .Values.externalSecret.providers $envoy.credentials.keys (not $envoy.credentials.existingSecret) -}}
{{- fail "two sources of one Secret: give envoy.credentials.keys, or externalSecret.providers, not both" -}}
{{- end -}}
{{- range without (splitList " " $names) "" -}}
{{- if not (or (get $envoy.providers .).host $envoy.config) -}}
{{- fail (printf "provider %s has no host: give envoy.providers.%s.host" . .) -}}
{{- end -}}
{{- end -}}
{{- if not (or $envoy.credentials.existingSecret $envoy.config) -}}
{{- range splitList " " $names -}}
{{- $inStore := and $.Values.externalSecret.enabled (hasKey $.Values.externalSecret.providers .) -}}
{{- if not (or (hasKey $envoy.credentials.keys .) $inStore) -}}
{{- fail (printf "provider %s has no credential: give envoy.credentials.existingSecret, envoy.credentials.keys.%s or externalSecret.providers.%s" . . .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
