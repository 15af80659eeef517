{{/* The plugin's name by mode, without the suffix. The DaemonSet selects its pods by it. */}}
{{- define "qat.app" -}}
{{ if eq .Values.mode "kernel" }}intel-qat-kernel-plugin{{ else }}intel-qat-plugin{{ end }}
{{- end }}

{{- define "qat.name" -}}
{{ include "qat.app" . }}{{ .Values.nameSuffix }}
{{- end }}

{{- define "qat.config" -}}
{{ include "qat.app" . }}-config{{ .Values.nameSuffix }}
{{- end }}

{{- define "qat.provisioning" -}}
qat-provisioning{{ .Values.nameSuffix }}
{{- end }}

{{- define "qat.events" -}}
{{ include "qat.app" . }}-events{{ .Values.nameSuffix }}
{{- end }}

{{- define "qat.image" -}}
{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* qat.hostPath (list NAME PATH TYPE) renders one volume. */}}
{{- define "qat.hostPath" -}}
- name: {{ index . 0 }}
  hostPath:
    path: {{ index . 1 }}
    type: {{ index . 2 }}
{{- end }}

{{/* qat.fromConfig (list . KEY) renders one environment variable, from the ConfigMap. */}}
{{- define "qat.fromConfig" -}}
- name: {{ index . 1 }}
  valueFrom:
    configMapKeyRef:
      name: {{ include "qat.config" (index . 0) }}
      key: {{ index . 1 }}
{{- end }}
