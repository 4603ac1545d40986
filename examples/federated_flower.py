"""How do I train on machines whose examples stay where they are? Three clients and a server, each a process, by Flower.

    pip install "lrx[flower,papers]"
    python examples/federated_flower.py

The clients hold digits of few classes each. The server multiplies its rate by a controller that sees the median of the
clients' losses, refuses changes that are too large, and keeps its state, and goes on after a restart.
The processes here talk over loopback; on machines of your own, start the commands that this prints there, with the
address of the server, certificates in place of --insecure, and `client_app` and `server_app` in your Flower app.
"""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from flwr.serverapp import ServerApp

import lrx
from lrx.federated import dirichlet_partition
from lrx.federated.flower import make_client_app, make_strategy
from lrx.workloads import dataset_workload
from lrx.workloads.datasets import load

NUM_CLIENTS, NUM_ROUNDS = 3, 4
BIN = pathlib.Path(sys.executable).parent  # of Flower's commands


def workload_of(number=None):
    """The workload with the examples of a client, or with all of them."""
    digits = load("digits")
    if number is not None:
        clients = dirichlet_partition(digits.train_labels, NUM_CLIENTS, concentration=0.5)
        own = clients.indices[number, : clients.sizes[number]]
        digits = digits._replace(train_images=digits.train_images[own], train_labels=digits.train_labels[own])
    return dataset_workload(digits, "mlp", batch_size=16, widths=(32,))


client_app = make_client_app(workload_of, lrx.sgd(0.02), local_steps=10)
server_app = ServerApp()


@server_app.main()
def serve(grid, context):  # noqa: ARG001
    workload = workload_of()
    strategy = make_strategy(
        workload,
        server=lrx.sgd(lrx.constant(1.0) * lrx.pid()),
        feedback="median",
        max_norm=10.0,
        checkpoint=os.environ.get("SERVER_STATE"),
        min_available_nodes=NUM_CLIENTS,
    )
    params = strategy.run(grid, NUM_ROUNDS, timeout=60.0)
    for number, shown in enumerate(strategy.rounds, start=1):
        print(f"round {number}: {shown['counted']:.0f} clients, loss {shown['start_loss']:.3f}")
    print(f"accuracy {workload.evaluate(params, strategy.state.model_state)['accuracy']:.2f}", flush=True)


# ------------------------------------------------------------------------------------------- processes on one machine


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Processes:
    """A server, clients, and an app that they run, over loopback."""

    def __init__(self, folder, module, env=None):
        self.folder, self.address = pathlib.Path(folder), f"127.0.0.1:{free_port()}"
        path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"  # where Flower looks for its other commands
        self.env = (
            os.environ | {"PATH": path, "FLWR_HOME": str(self.folder), "FLWR_TELEMETRY_ENABLED": "0"} | (env or {})
        )
        self.started = []
        app = self.folder / "app"
        app.mkdir()
        (app / "app.py").write_text(pathlib.Path(module).read_text())
        (app / "pyproject.toml").write_text(
            '[project]\nname = "app"\nversion = "1.0.0"\ndescription = "An example"\n'
            'license = "Apache-2.0"\ndependencies = []\n'
            '[tool.flwr.app]\npublisher = "lrx"\n'
            '[tool.flwr.app.components]\nserverapp = "app:server_app"\nclientapp = "app:client_app"\n'
            "[tool.flwr.app.config]\n"
        )
        (self.folder / "config.toml").write_text(
            f'[superlink]\ndefault = "local"\n[superlink.local]\naddress = "{self.address}"\ninsecure = true\n'
        )

    def start(self, name, *command):
        """Start one of Flower's commands, whose output goes to a file."""
        print(f"{name}: {' '.join(command)}", flush=True)
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]], env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        self.started.append(process)
        return process

    def start_server(self):
        port = self.address.split(":")[1]
        options = ("--insecure", "--disable-runtime-dependency-installation", "--port", port)
        return self.start("server", "flower-superlink", *options)

    def start_client(self, number):
        options = ("--insecure", "--superlink", self.address, "--port", str(free_port()))
        return self.start(f"client-{number}", "flower-supernode", *options, "--node-config", f"partition-id={number}")

    def run(self):
        """Submit the app, show what its server prints, and wait for its end."""
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(self.address.split(":"), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        return subprocess.run([str(BIN / "flwr"), "run", "app", "--stream"], cwd=self.folder, env=self.env, check=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, 9)
            process.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, Processes(folder, __file__) as processes:
        processes.start_server()
        for number in range(NUM_CLIENTS):
            processes.start_client(number)
        processes.run()
