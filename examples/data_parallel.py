"""How do I train on several devices and hosts, with a rate that fits the batch of all of them?

Each device takes 32 examples, so the batch grows with the devices. The rate follows it: linear scaling, with a gradual
warm-up from the rate of one device (P. Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv:1706.02677).
Parameters and optimizer state are split over the devices with --fsdp. The same command runs on one device, on all
devices of a host, and on every host of a cluster:

    python examples/data_parallel.py                                     # the devices of this host
    python examples/data_parallel.py --distributed                       # in SLURM, Kubernetes or on a TPU pod
    python examples/data_parallel.py --coordinator HOST:1234 --processes 2 --process 0   # by hand, on each host
"""

import argparse

import jax

import lrx

PER_DEVICE = 32  # examples
BASE_RATE, BASE_BATCH = 0.1, 32  # the rate that was tuned, and the batch that it was tuned at
WARMUP_EPOCHS = 2


def train(data="digits", model="mlp", epochs=10, fsdp=False, checkpoint=None, data_dir=None):
    from lrx.workloads import make_workload

    batch_size = PER_DEVICE * jax.device_count()
    workload = make_workload(data, model, batch_size=batch_size, data_dir=data_dir)
    per_epoch = workload.batches.steps_per_epoch

    peak = lrx.scale_for_batch_size(BASE_RATE, batch_size, base_batch_size=BASE_BATCH)
    # From the rate of one device to that of all, in equal parts.
    rate = lrx.interpolate({0: BASE_RATE, WARMUP_EPOCHS * per_epoch: peak, epochs * per_epoch: 0.0})

    history = lrx.train(
        workload,
        lrx.sgd(rate, momentum=0.9),
        epochs=epochs,
        mesh=jax.make_mesh((jax.device_count(),), ("data",)),
        param_sharding="fsdp" if fsdp else None,
        checkpoint=checkpoint,
    )
    found = lrx.check_consistency({"params": history.params, "opt_state": history.opt_state})
    if jax.process_index() == 0:
        print(f"{jax.device_count()} devices of {jax.process_count()} processes, batch {batch_size}, rate {peak:g}")
        print(history.summary())
        print(found)
    return history, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--model", default="mlp")
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--fsdp", action="store_true", help="split parameters and optimizer state over the devices")
    parser.add_argument("--checkpoint", help="a folder that all hosts can write; the same command goes on from there")
    parser.add_argument("--distributed", action="store_true", help="join the processes that the cluster has started")
    parser.add_argument("--coordinator", help="address of the first process, if no cluster says it")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int, help="number of this process, from 0")
    options = vars(parser.parse_args())
    joined = [options.pop(name) for name in ("coordinator", "processes", "process")]
    if options.pop("distributed") or joined[0]:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # has no effect on GPUs and TPUs
        jax.distributed.initialize(*joined)  # before anything that uses a device
    train(**options)


if __name__ == "__main__":
    main()
