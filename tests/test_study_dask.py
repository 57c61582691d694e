"""Studies on a real Dask scheduler with real workers, on loopback."""

import gc
import re
import socket
import threading
import time

import experiments
import pytest
from cluster import Cluster

from reluscape import Study
from reluscape.errors import AnalysisError, InputError
from reluscape.study import execution

POINTS = {"point": [0, 1, 2, 4]}  # the first has arrays


@pytest.fixture(scope="module")
def cluster():
    with Cluster(workers=1) as found:
        found.add_worker(threads=3)
        yield found


@pytest.fixture(scope="module")
def restarting():
    """A cluster that starts a worker anew."""
    with Cluster(workers=1, reviving=True, allowed_failures=0) as found:
        yield found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The digest of a run in one process."""
    study = Study(tmp_path_factory.mktemp("whole") / "runs.sqlite")
    study.run(experiments.short, POINTS, trials=30)
    return study.digest()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.sqlite"


def test_records_are_those_of_one_process(cluster, path, whole):
    ran = []
    study = Study(path)
    study.run(
        experiments.short, POINTS, trials=30, dask=cluster.address,
        progress=lambda *told: ran.append(told),
    )  # fmt: skip
    assert study.digest() == whole
    assert len(ran) == 120
    assert study.records()["status"].isin(["done", "failed"]).all()


def test_trials_run_on_one_thread_in_a_process_of_a_worker(cluster, path):
    study = Study(path)
    study.run(experiments.threads, trials=6, dask=cluster.address)
    assert (study.records()["threads"] == 1).all()
    assert (study.records()["openmp"] == 1).all()


def test_an_interrupted_run_goes_on_elsewhere(cluster, path, whole):
    def stop(*_):
        raise KeyboardInterrupt

    for options in ({"dask": cluster.address}, {"jobs": 2}, {"dask": cluster.address}):
        with pytest.raises(KeyboardInterrupt):
            Study(path).run(experiments.short, POINTS, trials=30, progress=stop, **options)
    assert Study(path).standing().planned == 120
    assert len(Study(path).records()) == 3
    Study(path).run(experiments.short, POINTS, trials=30, dask=cluster.address)
    assert Study(path).digest() == whole


def test_killed_workers_cost_nothing(cluster, path, whole):
    killed = []

    def murder(*_):
        if not killed and len(Study(path).records()) >= 20:
            killed.append(cluster.workers.pop(0))
            killed[-1].kill()
            killed[-1].wait()
            cluster.add_worker()

    standing = Study(path).run(
        experiments.short, POINTS, trials=30, dask=cluster.address, progress=murder
    )
    assert killed
    assert standing.lost == 0
    assert Study(path).digest() == whole


def test_a_trial_that_kills_its_workers_is_lost_alone(restarting, path, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "LOSSES", 2)
    (tmp_path / "marks").mkdir()
    points = [{"deaths": deaths, "folder": str(tmp_path / "marks")} for deaths in (0, 99)]
    standing = Study(path).run(experiments.lethal, points, dask=restarting.address)
    assert (standing.done, standing.failed, standing.lost) == (1, 0, 1)


def test_short_trials_share_tasks_and_the_lethal_one_among_them_is_lost_alone(
    restarting, path, tmp_path, monkeypatch
):
    """The first task has one trial and tells that they are short; the worker dies in the second."""
    monkeypatch.setattr(execution, "LOSSES", 2)
    monkeypatch.setattr(execution, "MOMENT", 50.0)  # however busy the machine is
    monkeypatch.setattr(execution._Cluster, "width", 1)
    tasks = []
    submit = execution._Cluster.submit
    monkeypatch.setattr(
        execution._Cluster, "submit", lambda *args: tasks.append(args[4:]) or submit(*args)
    )
    (tmp_path / "marks").mkdir()
    points = [{"n": n, "folder": str(tmp_path / "marks")} for n in range(60)]
    points[20]["deaths"] = 99
    standing = Study(path).run(experiments.lethal, points, dask=restarting.address)
    assert (standing.done, standing.failed, standing.lost) == (59, 0, 1)
    records = Study(path).records().set_index("n")
    assert records.loc[20, "status"] == "lost"
    sizes = [len(task) for task in tasks]
    assert sizes[:2] == [1, 50]
    assert len(sizes) == 3 + 50 + 1  # the third has the rest; the lethal one is tried twice


def test_a_batch_of_trials_that_take_long_after_all_is_broken_off(monkeypatch):
    monkeypatch.setattr(execution, "LONG", 0.05)
    code = execution.code_version(experiments.short)
    trials = [execution.Trial.of('{"seconds": 0.03}', number, 0) for number in range(5)]
    blob = execution._pickled(experiments.short)
    assert [outcome.trial for outcome in execution._run(blob, code, *trials)] == trials[:2]
    waiting = execution._Waiting(iter(trials[4:]), 50)
    waiting.arrived(trials[:4], execution._run(blob, code, *trials[:4]))
    assert waiting.batch() == trials[2:3]  # what was left out comes next, and by itself


def test_trials_of_one_process_never_run_at_the_same_time(cluster, path):
    study = Study(path)
    study.run(experiments.alone, trials=40, dask=cluster.address)
    assert (study.records()["running"] == 1).all()
    assert study.records()["process"].nunique() == 2


def test_no_scheduler_is_one_clear_error(path, monkeypatch):
    monkeypatch.setattr(execution, "CONNECTING", 0.5)
    before = time.monotonic()
    for address in ("tcp://127.0.0.1:9", "nonsense://x", "127.0.0.1:notaport"):
        with pytest.raises(InputError, match="expected a Dask scheduler") as caught:
            Study(path).run(experiments.dice, dask=address)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - before < 10


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_answers_but_is_no_scheduler_is_one_clear_error(path, monkeypatch, greeting):
    monkeypatch.setattr(execution, "CONNECTING", 1.0)
    before = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with server.accept()[0] as peer:
                peer.sendall(greeting)
                peer.recv(1000)  # Dask's own greeting
                peer.recv(1)  # until it hangs up

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(InputError, match="expected a Dask scheduler") as caught:
            Study(path).run(experiments.dice, dask=f"tcp://127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert time.monotonic() - before < 10
    assert "\n" not in str(caught.value)


def test_a_worker_is_no_scheduler(cluster, path):
    Study(path.with_name("first.sqlite")).run(experiments.dice, dask=cluster.address)
    address = re.findall(r"Start worker at: +(\S+)", cluster.log())[-1]  # one that is not killed
    with pytest.raises(InputError, match="a Worker answers there"):
        Study(path).run(experiments.dice, dask=address)


def test_what_goes_wrong_with_a_cluster_is_one_clear_error(path, monkeypatch):
    """No worker, then one without the module, then a scheduler that goes away."""

    def travelling(parameters, seed):
        return {"x": seed % 7}

    travelling.__module__ = "__main__"  # as defined in a session: travels as code

    def refused(error, match, function=travelling, place=path, **options):
        before = time.monotonic()
        with pytest.raises(error, match=match) as caught:
            Study(place).run(function, trials=800, dask=own.address, **options)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - before < 30

    with Cluster(workers=0, path=None) as own:
        with monkeypatch.context() as patch:
            patch.setattr(execution, "PATIENCE", 1.0)
            refused(AnalysisError, r"had no worker.*dask worker")
        own.add_worker()
        match = r"cannot load.*experiments.*PYTHONPATH"
        refused(InputError, match, experiments.dice, path.with_name("dice.sqlite"))
        refused(AnalysisError, r"was lost.*intact", progress=lambda *_: own.scheduler.kill())
    assert 0 < Study(path).standing().done < 800
    plain = Study(path.with_name("plain.sqlite"))
    for study in (Study(path), plain):
        study.run(travelling, trials=800)
    assert Study(path).digest() == plain.digest()


def test_a_failure_in_leaving_a_cluster_does_not_hide_the_first_one(cluster, path, monkeypatch):
    from distributed import Client

    begin, close, own = Client.__init__, Client.close, set()

    def start(self, *args, **options):
        own.add(id(self))
        begin(self, *args, **options)

    def stumble(self, *args, **options):
        close(self, *args, **options)
        if id(self) in own:  # not other tests' clients, which close when they are collected
            raise RuntimeError("dictionary changed size during iteration")

    def stop(*_):
        raise AnalysisError("the reason")

    gc.collect()
    monkeypatch.setattr(Client, "__init__", start)
    monkeypatch.setattr(Client, "close", stumble)
    with pytest.raises(AnalysisError, match="the reason"):
        Study(path).run(experiments.dice, trials=9, dask=cluster.address, progress=stop)


def test_without_distributed_the_error_names_the_extra(path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(InputError, match=r"reluscape\[dask\]"):
        Study(path).run(experiments.dice, dask="tcp://127.0.0.1:9")
