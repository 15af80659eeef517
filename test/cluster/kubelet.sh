#!/bin/bash
# kubelet.sh: becomes the kubelet of the node. node.sh starts it, and a test that restarts the kubelet.
exec kubelet --kubeconfig="$KUBECONFIG" --config=/var/lib/cluster/kubelet.yaml --hostname-override=node1 --node-ip=10.89.0.1 --v=2
