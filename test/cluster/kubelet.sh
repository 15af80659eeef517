#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs the kubelet of the node. Used by node.sh, and by a test that restarts the kubelet.
exec kubelet --kubeconfig="$KUBECONFIG" --config=/var/lib/cluster/kubelet.yaml \
	--hostname-override=node1 --node-ip=10.89.0.1 --v=2
