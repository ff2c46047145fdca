{{- define "inferd.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "inferd.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "inferd.name" .) .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name (include "inferd.name" .) | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "inferd.selectorLabels" -}}
app.kubernetes.io/name: {{ include "inferd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "inferd.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "inferd.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "inferd.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (ternary (include "inferd.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "inferd.image" -}}
{{- $tag := .Values.image.tag | default (ternary (printf "%s-gpu" .Chart.AppVersion) .Chart.AppVersion .Values.gpu.enabled) -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end }}

{{- define "inferd.scheme" -}}
{{ ternary "https" "http" (ne .Values.tls.existingSecret "") }}
{{- end }}

{{/* The Secret with the key of INFERD_ADMIN_KEY: the one that is there, or the chart's own. */}}
{{- define "inferd.adminSecret" -}}
{{ .Values.adminKey.existingSecret | default (printf "%s-admin" (include "inferd.fullname" .)) }}
{{- end }}

{{- define "inferd.keysSecret" -}}
{{ .Values.apiKeys.existingSecret | default (printf "%s-keys" (include "inferd.fullname" .)) }}
{{- end }}

{{/* How long a pod may take to end: all that it does then, and some more for the last answers and the end of processes. */}}
{{- define "inferd.gracePeriod" -}}
{{ with .Values.drain }}{{ add .preStopSeconds .delaySeconds .timeoutSeconds .marginSeconds }}{{ end }}
{{- end }}

{{/* What picks the series of this release, as prometheus-operator labels them. */}}
{{- define "inferd.series" -}}
namespace="{{ .Release.Namespace }}",service="{{ include "inferd.fullname" . }}"
{{- end }}

{{/* The depth of all queues together, as the recording rule has it and autoscalers read it. */}}
{{- define "inferd.queueDepthRule" -}}
inferd:queue_depth:sum
{{- end }}

{{- define "inferd.modelsVolume" -}}
{{- with .Values.models }}
{{- if eq .source "pvc" }}
persistentVolumeClaim:
  claimName: {{ required "models.source is pvc, so models.pvc.existingClaim must name the claim that holds them" .pvc.existingClaim }}
  readOnly: true
{{- else if eq .source "init" }}
emptyDir:
  sizeLimit: {{ .init.sizeLimit }}
{{- else if eq .source "ociImage" }}
image:
  reference: {{ required "models.source is ociImage, so models.ociImage.reference must name the image that holds them" .ociImage.reference }}
  pullPolicy: {{ .ociImage.pullPolicy }}
{{- end }}
{{- end }}
{{- end }}

{{- define "inferd.validate" -}}
{{- with .Values }}
{{- if and .autoscaling.enabled .keda.enabled }}
{{- fail "autoscaling.enabled and keda.enabled are both true: two autoscalers of one Deployment work against each other; choose one" }}
{{- end }}
{{- if and .keda.enabled (not .prometheusRule.enabled) (not .keda.query) }}
{{- fail "keda.enabled reads the recording rule of prometheusRule.enabled, which is false: turn it on, or say in keda.query what is to be read" }}
{{- end }}
{{- if and .adminKey.value .adminKey.existingSecret }}
{{- fail "adminKey.value and adminKey.existingSecret are both given; choose one" }}
{{- end }}
{{- if and .apiKeys.lines .apiKeys.existingSecret }}
{{- fail "apiKeys.lines and apiKeys.existingSecret are both given; choose one" }}
{{- end }}
{{- if and (eq (get .settings "model_control" | default "none") "explicit") (not .adminKey.value) (not .adminKey.existingSecret) (not .apiKeys.lines) (not .apiKeys.existingSecret) }}
{{- fail "settings.model_control is explicit, and nobody could load a model: give adminKey, or apiKeys with one of the scope admin" }}
{{- end }}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) }}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the Gateway that is to take the route" }}
{{- end }}
{{- if and (eq .models.source "init") (not .models.init.image) }}
{{- fail "models.source is init, so models.init.image must name the image that fetches them" }}
{{- end }}
{{- end }}
{{- end }}
