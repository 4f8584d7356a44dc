#!/usr/bin/env bash
# One run on several machines: start this on each of them, in the project's folder. See docs/multi_node.md.
#   HEAD=10.0.0.1 NODES=2 NODE_RANK=0 PROCESSES=4 docs/multi_node/torchrun.sh fit --config experiments/NAME.yaml
# HEAD: address of the machine with NODE_RANK 0. PROCESSES: on each machine, one a GPU.
set -euo pipefail
exec python -m torch.distributed.run --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "$PROCESSES" \
    --master-addr "$HEAD" --master-port "${PORT:-29500}" \
    main.py "$@" --trainer.num_nodes "$NODES" --trainer.devices "$PROCESSES"
