{{/* The beginning of every name: the release, with the chart's name where the release does not say it. */}}
{{- define "spanwire.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* The name of something that is not in a namespace. */}}
{{- define "spanwire.clusterName" -}}
{{ include "spanwire.fullname" . }}-{{ .Release.Namespace }}
{{- end }}

{{- define "spanwire.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "spanwire.labels" -}}
{{ include "spanwire.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "spanwire.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The user that an agent is to the API server. */}}
{{- define "spanwire.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "spanwire.fullname" . }}-agent
{{- end }}
