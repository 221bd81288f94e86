{{- /* The chart's Envoy configuration: files/envoy.json has everything, and what is off is taken
       away. As JSON, which writes large numbers as they are. */ -}}
{{- define "egret.envoyConfig" -}}
{{- if .Values.envoy.config -}}
{{ .Values.envoy.config }}
{{- else -}}
{{- $config := .Files.Get "files/envoy.json" | fromJson -}}
{{- $providers := .Values.envoy.providers -}}
{{- $chain := index (index $config.static_resources.listeners 0).filter_chains 0 -}}
{{- $hcm := (index $chain.filters 0).typed_config -}}
{{- $otlp := .Values.envoy.otlp -}}
{{- if $otlp.host -}}
{{- $_ := set $hcm.tracing "random_sampling" (dict "value" $otlp.samplingPercent) -}}
{{- else -}}
{{- $_ := unset $hcm "tracing" -}}
{{- end -}}
{{- if not .Values.envoy.clientCertificates.existingSecret -}}
{{- $tls := $chain.transport_socket.typed_config -}}
{{- $_ := unset $tls "require_client_certificate" -}}
{{- $_ := unset $tls.common_tls_context "validation_context_sds_secret_config" -}}
{{- end -}}
{{- include "egret.routeByModel" (dict "values" .Values.envoy "hcm" $hcm) -}}
{{- range $filter := $hcm.http_filters -}}
{{- if eq $filter.name "envoy.filters.http.ext_proc" -}}
{{- $_ := set $filter.typed_config "message_timeout" (include "egret.messageTimeout" (dict "settings" $.Values.settings "least" $filter.typed_config.message_timeout)) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $hcm "xff_num_trusted_hops" (int .Values.envoy.trustedProxies) -}}
{{- $metrics := index $config.static_resources.listeners 1 -}}
{{- if .Values.envoy.metrics.enabled -}}
{{- $_ := set $metrics.address.socket_address "port_value" (int .Values.envoy.metrics.port) -}}
{{- else -}}
{{- $_ := set $config.static_resources "listeners" (list (index $config.static_resources.listeners 0)) -}}
{{- $_ := unset (index $config.layered_runtime.layers 0).static_layer "envoy.resource_limits.listener.metrics.connection_limit" -}}
{{- end -}}
{{- $routes := list -}}
{{- range $route := (index $hcm.route_config.virtual_hosts 0).routes -}}
{{- $cluster := ($route.route | default dict).cluster | default "" -}}
{{- $provider := get $providers $cluster | default dict -}}
{{- /* Other providers have routes for Azure's paths behind its own. */ -}}
{{- if or (ne $cluster "azure") $provider.enabled -}}
{{- $routes = append $routes $route -}}
{{- end -}}
{{- if $route.route -}}
{{- if $provider.enabled -}}
{{- $_ := set $route.route "host_rewrite_literal" $provider.host -}}
{{- else -}}
{{- $_ := unset $route "route" -}}
{{- $_ := unset $route "typed_per_filter_config" -}}
{{- $_ := set $route "name" "no_provider" -}}
{{- $_ := set $route "direct_response" (dict "status" 404) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set (index $hcm.route_config.virtual_hosts 0) "routes" $routes -}}
{{- $clusters := list -}}
{{- range $cluster := $config.static_resources.clusters -}}
{{- $provider := get $providers $cluster.name -}}
{{- if not (hasKey $providers $cluster.name) -}}
{{- if eq $cluster.name "egret" -}}
{{- $_ := set (index $cluster.load_assignment.endpoints 0) "lb_endpoints" (include "egret.workerEndpoints" $ | fromJsonArray) -}}
{{- end -}}
{{- if eq $cluster.name "otlp" -}}
{{- $address := (index (index $cluster.load_assignment.endpoints 0).lb_endpoints 0).endpoint.address.socket_address -}}
{{- $_ := set $address "address" $otlp.host -}}
{{- $_ := set $address "port_value" (int $otlp.port) -}}
{{- end -}}
{{- $isOff := or (and (eq $cluster.name "otlp") (not $otlp.host)) (and (eq $cluster.name "admin") (not $.Values.envoy.metrics.enabled)) -}}
{{- if not $isOff -}}
{{- $clusters = append $clusters $cluster -}}
{{- end -}}
{{- else if $provider.enabled -}}
{{- $tls := $cluster.transport_socket.typed_config -}}
{{- $_ := set $tls "sni" $provider.host -}}
{{- $_ := set (index $tls.common_tls_context.validation_context.match_typed_subject_alt_names 0) "matcher" (dict "exact" $provider.host) -}}
{{- $_ := set (index (index $cluster.load_assignment.endpoints 0).lb_endpoints 0).endpoint.address.socket_address "address" $provider.host -}}
{{- $clusters = append $clusters $cluster -}}
{{- end -}}
{{- end -}}
{{- $_ := set $config.static_resources "clusters" $clusters -}}
{{- $config | toJson -}}
{{- end -}}
{{- end -}}

{{- /* Envoy waits longer than Egret's budgets together, or an exchange that needs them ends with 504.
       The defaults are those of Egret's settings, which a test compares. Arguments: settings, least. */ -}}
{{- define "egret.messageTimeout" -}}
{{- $authorize := float64 (.settings.EGRET_EXCHANGE__AUTHORIZE_SECONDS | default 2) -}}
{{- $inspect := float64 (.settings.EGRET_EXCHANGE__INSPECT_SECONDS | default 5) -}}
{{- $least := trimSuffix "s" .least | float64 -}}
{{- printf "%ds" (maxf $least (addf $authorize $inspect 3 | ceil) | int) -}}
{{- end -}}

{{- /* Puts routes by model in place of those that stand for them, a copy for each glob and path.
       Writes into the connection manager and returns nothing. Arguments: values, hcm. */ -}}
{{- define "egret.routeByModel" -}}
{{- $host := index .hcm.route_config.virtual_hosts 0 -}}
{{- $byPath := list -}}
{{- $first := list -}}
{{- $refused := list -}}
{{- $patterns := dict -}}
{{- $hasAzure := .values.providers.azure.enabled -}}
{{- range $route := $host.routes -}}
{{- $header := first ($route.match.headers | default (list dict)) -}}
{{- $byModel := eq ($header.name | default "") "x-egret-model" -}}
{{- $isRefused := hasKey ($route.direct_response | default dict) "body" -}}
{{- /* Without Azure the paths have the prefixes of LiteLLM as well. */ -}}
{{- if and (or $byModel $isRefused) (not $hasAzure) -}}
{{- $path := $route.match.safe_regex.regex -}}
{{- $below := ternary "anthropic" "openai" (hasPrefix "/v1/messages" $path) -}}
{{- $_ := set $route.match.safe_regex "regex" (printf "(/%s)?%s" $below $path) -}}
{{- if $byModel -}}
{{- $_ := set $route.route "regex_rewrite" (dict "pattern" (dict "regex" "^/(openai|anthropic)/") "substitution" "/") -}}
{{- end -}}
{{- end -}}
{{- if $byModel -}}
{{- $cluster := $route.route.cluster -}}
{{- $_ := set $patterns $cluster (append (get $patterns $cluster | default list) $route) -}}
{{- else if eq ($route.name | default "") "escaped_slash" -}}
{{- $first = append $first $route -}}
{{- else if $isRefused -}}
{{- $refused = append $refused $route -}}
{{- else -}}
{{- $byPath = append $byPath $route -}}
{{- end -}}
{{- end -}}
{{- $routes := list -}}
{{- range $one := .values.modelRoutes -}}
{{- range $glob := $one.models -}}
{{- $regex := $glob | replace "." "\\." | replace "+" "\\+" | replace "*" ".*" | replace "?" "." -}}
{{- range $pattern := get $patterns $one.provider -}}
{{- $route := deepCopy $pattern -}}
{{- $_ := set (index $route.match.headers 0) "string_match" (dict "safe_regex" (dict "regex" $regex)) -}}
{{- $routes = append $routes $route -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if not $routes -}}
{{- $_ := unset .hcm "early_header_mutation_extensions" -}}
{{- else if eq .values.unknownModels "refuse" -}}
{{- $routes = concat $routes $refused -}}
{{- end -}}
{{- $_ := set $host "routes" (concat $first $routes $byPath) -}}
{{- end -}}

{{- define "egret.workerEndpoints" -}}
{{- $endpoints := list -}}
{{- range $index := until (int .Values.workers) -}}
{{- $path := printf "/run/egret/sockets/worker-%d.sock" $index -}}
{{- $endpoints = append $endpoints (dict "endpoint" (dict "address" (dict "pipe" (dict "path" $path)))) -}}
{{- end -}}
{{- $endpoints | toJson -}}
{{- end -}}

{{- /* One provider's key as Envoy reads it: a file of SDS. Arguments: name, value. */ -}}
{{- define "egret.sdsCredential" -}}
{{- $bearer := has .name (list "openai" "bedrock") -}}
{{- $value := ternary (printf "Bearer %s" .value) .value $bearer -}}
{{- $secret := dict "@type" "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret" "name" .name "generic_secret" (dict "secret" (dict "inline_string" $value)) -}}
{{- dict "resources" (list $secret) | toJson -}}
{{- end -}}
