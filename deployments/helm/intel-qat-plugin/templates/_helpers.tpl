{{/* The name by front and mode, without the suffix. The DaemonSet selects its pods by it. */}}
{{- define "qat.app" -}}
{{ if eq .Values.front "dra" }}intel-qat-dra-driver
{{- else if eq .Values.mode "kernel" }}intel-qat-kernel-plugin
{{- else }}intel-qat-plugin{{ end }}
{{- end }}

{{/* The namespace in the metadata of the DRA driver's objects, which its RBAC also has to name. */}}
{{- define "qat.namespace" -}}
{{ if eq .Values.front "dra" }}
  namespace: {{ .Release.Namespace }}{{ end }}
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
{{- $default := ternary "intel-qat-dra-driver" "intel-qat-plugin" (eq .Values.front "dra") -}}
{{ .Values.image.repository | default $default }}
{{- with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
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

{{/* The token of the service account, which the kubelet renews each hour. */}}
{{- define "qat.tokenMount" -}}
- name: api-access
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}

{{- define "qat.tokenVolume" -}}
- name: api-access
  projected:
    defaultMode: 256
    sources:
    - serviceAccountToken:
        path: token
        expirationSeconds: 3600
    - configMap:
        name: kube-root-ca.crt
        items:
        - key: ca.crt
          path: ca.crt
{{- end }}
