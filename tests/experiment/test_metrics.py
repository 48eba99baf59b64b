import csv
import json
import math
import os
import struct
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from errors import UserError
from experiment import metrics
from experiment.metrics import MetricsWriter, first_non_finite

REPOSITORY = Path(__file__).parents[2]

# The step to which each session of a run cuts its files back, and the steps it then writes.
KILLED_TWICE = [(-1, (10, 20, 30)), (20, (25, 30, 40)), (25, (30, 50))]

# Writes a run, resumes it with a cut, and prints what the files of Weights & Biases hold. They are
# logs of LevelDB's kind: 7 bytes, then blocks of 32 KiB with fragments of records, each after a
# checksum, its length and its kind (1 whole, 2 first, 3 middle, 4 last).
WANDB_PROGRAM = """
import json, struct, sys, time
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record
from experiment.metrics import MetricsWriter

def records(data):
    position, record = 7, b""
    while position + 7 <= len(data):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        position += 7 + size
        record += data[position - size : position]
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""

workdir, sessions = Path(sys.argv[1]), json.loads(sys.argv[2])
for kept, rows_by_step in sessions:
    writer = MetricsWriter(
        workdir, [3, 4], tensorboard=False, wandb="offline", wandb_project="p", config={"lr": 0.5}
    )
    writer.truncate(kept)
    for step, rows in rows_by_step:
        writer.write(step, rows)
    writer.close()
    time.sleep(1.1)  # its folders are named to the second
found = []
for path in sorted(workdir.glob("wandb/offline-run-*/*.wandb")):
    history, config = [], {}
    for record in records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = record.history.item
            history.append({item.nested_key[0]: json.loads(item.value_json) for item in items})
        elif kind == "run":
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
    found.append({"id": path.stem, "config": config, "history": history})
(workdir / "found.json").write_text(json.dumps(found))
"""


def writer(workdir, seeds=(3, 4), **options):
    defaults = {"tensorboard": False, "wandb": "off", "wandb_project": "p", "config": {"a": 1}}
    return MetricsWriter(workdir, list(seeds), **(defaults | options))


def row(value, **more):
    evaluation = {"eval/return": value, "eval/return_std": 0.5, "eval/length": 9.0}
    return {"wall_clock": 1.5, **evaluation, "policy/loss": value, **more}


def table(workdir, seed):
    return list(csv.reader((workdir / "metrics" / f"seed_{seed}.csv").read_text().splitlines()))


def events(folder: Path):
    """Returns the records of all event files in a folder, oldest file first.

    A record is a little-endian length, 4 bytes of checksum, the data and 4 bytes of checksum.
    """
    found = []
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def scalars(folder: Path, name: str):
    """Returns what TensorBoard shows: `{step: value}`, restarts hiding the steps they purge."""
    shown = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == name:
                shown[event.step] = value.simple_value
    return shown


def test_columns_are_ordered_and_files_named_by_seed(tmp_path):
    writer(tmp_path).write(10, [row(1.0, a=2.0), row(5.0, a=3.0)])
    assert table(tmp_path, 3)[0][:3] == ["env_step", "wall_clock", "eval/return"]
    assert table(tmp_path, 3)[0][3:5] == ["eval/return_std", "eval/length"]
    assert table(tmp_path, 3) == [
        [*metrics.FIRST_COLUMNS, "a", "policy/loss"],
        ["10", "1.5", "1.0", "0.5", "9.0", "2.0", "1.0"],
    ]
    assert table(tmp_path, 4)[1][5:] == ["3.0", "5.0"]


def test_values_round_trip_bit_exactly(tmp_path):
    values = [0.1 + 0.2, 1 / 3, 5e-324, -0.0, math.inf, 1.7976931348623157e308, 2.0**53 + 2]
    for step, value in enumerate(values):
        writer(tmp_path, [0]).write(step, [row(value, half=np.float32(0.1))])
    frame = metrics.read(tmp_path)[0]
    assert frame["policy/loss"].to_numpy().tobytes() == np.array(values).tobytes()
    assert frame["env_step"].tolist() == list(range(len(values)))
    assert np.float32(frame["half"][0]) == np.float32(0.1)


def test_read_lists_seeds_in_order_with_nan_in_empty_cells(tmp_path):
    writer(tmp_path, [10, 9]).write(1, [{"wall_clock": 1.0, "b": math.nan}, {"wall_clock": 2.0}])
    frames = metrics.read(tmp_path)
    assert list(frames) == [9, 10]
    assert frames[10].loc[0, ["eval/return", "b"]].isna().all()


def test_a_new_name_adds_a_column_to_all_rows_of_all_seeds(tmp_path):
    first = writer(tmp_path)
    first.write(1, [row(1.0), row(2.0)])
    first.write(2, [row(3.0, model=0.25), row(4.0)])
    first.write(3, [{"wall_clock": 2.0}] * 2)
    writer(tmp_path).write(4, [row(5.0, model=0.5), row(6.0, model=0.75)])
    one, two = metrics.read(tmp_path).values()
    np.testing.assert_array_equal(one["model"], [np.nan, 0.25, np.nan, 0.5])
    np.testing.assert_array_equal(two["model"], [np.nan, np.nan, np.nan, 0.75])
    np.testing.assert_array_equal(one["policy/loss"], [1.0, 3.0, np.nan, 5.0])
    assert list(one) == list(two)


def test_truncate_drops_later_rows_and_one_cut_short(tmp_path):
    first = writer(tmp_path)
    for step in (10, 20, 30):
        first.write(step, [row(step / 3), row(step / 7)])
    before = (tmp_path / "metrics" / "seed_3.csv").read_text().splitlines()
    with (tmp_path / "metrics" / "seed_3.csv").open("a") as file:
        file.write("1")  # what a kill leaves of a row for step 10 or 1000
    assert len(metrics.read(tmp_path)[3]) == 3
    second = writer(tmp_path)
    second.truncate(20)
    assert (tmp_path / "metrics" / "seed_3.csv").read_text().splitlines() == before[:3]
    second.write(30, [row(10.0), row(30 / 7)])
    assert (tmp_path / "metrics" / "seed_3.csv").read_text().splitlines() == before
    second.truncate(-1)
    assert metrics.read(tmp_path)[4].empty


def test_kill_between_two_files_getting_a_new_column_is_repaired(tmp_path):
    writer(tmp_path).write(1, [row(1.0), row(2.0)])
    path = tmp_path / "metrics" / "seed_3.csv"
    header, line = path.read_text().splitlines()
    path.write_text(f"{header},z\n{line},\n")
    writer(tmp_path).write(2, [row(3.0, z=8.0), row(4.0, z=9.0)])
    for seed, z in ((3, 8.0), (4, 9.0)):
        frame = metrics.read(tmp_path)[seed]
        np.testing.assert_array_equal(frame["z"], [np.nan, z])
        assert frame["policy/loss"].tolist() == ([1.0, 3.0] if seed == 3 else [2.0, 4.0])


def test_refreshes_have_files_of_their_own(tmp_path):
    epochs = writer(tmp_path)
    epochs.write_refreshes([[], []])
    assert metrics.read_refreshes(tmp_path) == {}
    tables = [
        [{"env_step": 7, "b": 0.1 + 0.2, "a": 1 / 3}, {"env_step": 9, "b": 5e-324, "a": -0.0}],
        [{"env_step": 7, "b": 1.0, "a": 2.0}, {"env_step": 9, "b": 3.0, "a": 4.0}],
    ]
    epochs.write_refreshes(tables)
    epochs.write(10, [row(1.0), row(2.0)])
    assert list(metrics.read(tmp_path)) == list(metrics.read_refreshes(tmp_path)) == [3, 4]
    assert metrics.read(tmp_path)[3]["env_step"].tolist() == [10]
    path = tmp_path / "metrics" / "refresh_seed_3.csv"
    assert path.read_text() == f"env_step,a,b\n7,{1 / 3!r},{0.1 + 0.2!r}\n9,-0.0,5e-324\n"
    second = metrics.read_refreshes(tmp_path)[4]
    assert second.to_dict("list") == {"env_step": [7, 9], "a": [2.0, 4.0], "b": [1.0, 3.0]}


def test_truncate_cuts_refreshes_back_too(tmp_path):
    first = writer(tmp_path)
    for step in (10, 20, 30):
        first.write_refreshes([[{"env_step": step - d, "a": step / 3} for d in (4, 0)]] * 2)
    path = tmp_path / "metrics" / "refresh_seed_3.csv"
    before = path.read_text().splitlines()
    with path.open("a") as file:
        file.write("1")  # what a kill leaves of a row
    assert metrics.read_refreshes(tmp_path)[3]["env_step"].tolist() == [6, 10, 16, 20, 26, 30]
    second = writer(tmp_path)
    second.truncate(20)
    assert path.read_text().splitlines() == before[:5]
    second.write_refreshes([[{"env_step": step, "a": 10.0} for step in (26, 30)]] * 2)
    assert path.read_text().splitlines() == before
    second.truncate(-1)
    assert metrics.read_refreshes(tmp_path)[4].empty


def test_each_row_is_on_disk_when_write_returns(tmp_path):
    open_writer = writer(tmp_path, [0], tensorboard=True)
    open_writer.write(5, [row(2.5)])
    assert metrics.read(tmp_path)[0]["eval/return"].tolist() == [2.5]
    open_writer.close()


def test_rows_must_match_the_seeds(tmp_path):
    with pytest.raises(ValueError, match="2 seeds, but 1 rows"):
        writer(tmp_path).write(1, [row(1.0)])


def test_tensorboard_holds_the_scalars_and_a_resume_hides_later_ones(tmp_path):
    first = writer(tmp_path, tensorboard=True)
    for step in (10, 20, 30):
        first.write(step, [row(step + 0.5), row(-1.0)])
    first.close()
    folder = tmp_path / "tensorboard" / "seed_3"
    assert scalars(folder, "eval/return") == {10: 10.5, 20: 20.5, 30: 30.5}
    second = writer(tmp_path, tensorboard=True)
    second.truncate(10)
    second.write(25, [row(7.0), row(-1.0)])
    second.close()
    assert scalars(folder, "eval/return") == {10: 10.5, 25: 7.0}
    assert scalars(tmp_path / "tensorboard" / "seed_4", "policy/loss") == {10: -1.0, 25: -1.0}


def uneven_rows(step, session):
    """Returns rows with numbers no short decimal has, an absent evaluation and a late name."""
    value = step / 3 + session
    rows = [row(value, big=1e30, tiny=5e-324), row(-value / 7, big=-0.0, tiny=0.1 + 0.2)]
    if step == 20:
        rows[0] |= {"eval/return": None, "eval/length": None}
    return [{**row, "late": math.inf} if step > 20 else row for row in rows]


def cells(frame):
    """Returns `{(name, step): value}` of the cells of a table that are not empty."""
    values = frame.set_index("env_step").stack().dropna()
    return {(name, step): value for (step, name), value in values.items()}


def test_tensorboards_own_reader_finds_the_numbers_of_the_csv_files_after_resumes(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for session, (kept, steps) in enumerate(KILLED_TWICE):
        open_writer = writer(tmp_path, tensorboard=True)
        open_writer.truncate(kept)
        for step in steps:
            open_writer.write(step, uneven_rows(step, session))
        open_writer.close()
        for path in (tmp_path / "tensorboard").glob("*/*"):
            with path.open("ab") as file:
                file.write(b"\x18")  # what a kill leaves of a record
    for seed, frame in metrics.read(tmp_path).items():
        folder = tmp_path / "tensorboard" / f"seed_{seed}"
        reader = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
        reader.Reload()
        found = {
            (name, point.step): point.value
            for name in reader.Tags()["scalars"]
            for point in reader.Scalars(name)
        }
        assert found == {key: np.float32(value) for key, value in cells(frame).items()}
        assert sorted({step for _, step in found}) == [10, 20, 25, 30, 50]


def test_weights_and_biases_offline_files_hold_the_numbers_of_the_csv_files(tmp_path):
    pytest.importorskip("wandb")
    sessions = [
        (kept, [(step, uneven_rows(step, session)) for step in steps])
        for session, (kept, steps) in enumerate(KILLED_TWICE)
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", WANDB_PROGRAM, str(tmp_path), json.dumps(sessions)],
        env=environment | nowhere | {"PYTHONPATH": str(REPOSITORY)},
        check=True,
        timeout=100,
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert [run["config"]["lr"] for run in found] == [0.5] * 3
    assert {run["id"] for run in found} == {f"run-{(tmp_path / 'wandb_id.txt').read_text()}"}
    histories = [{row["_step"]: row for row in run["history"]} for run in found]
    assert [list(history) for history in histories] == [[10, 20, 30], [25, 30, 40], [30, 50]]
    shown = histories[0] | histories[1] | histories[2]  # a resumed run's numbers replace older ones
    for seed, frame in metrics.read(tmp_path).items():
        logged = {
            (name.removeprefix(f"seed_{seed}/"), step): value
            for step in frame["env_step"]
            for name, value in shown[step].items()
            if name.startswith(f"seed_{seed}/") and not name.endswith("/env_step")
        }
        assert logged == cells(frame)


class FakeWandb(types.ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def init(self, **arguments):
        self.calls.append(arguments)
        return self

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("finished")


def test_wandb_gets_the_rows_and_a_resume_continues_the_same_run(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        online = writer(tmp_path, [3], wandb="offline", wandb_project="mine")
        online.write(10, [{"x": 2.0, "absent": None}])
        online.close()
    started, logged, finished, again = fake.calls[:4]
    assert (started["project"], started["mode"], started["config"]) == ("mine", "offline", {"a": 1})
    assert started["dir"] == str(tmp_path)
    assert logged == (10, {"seed_3/env_step": 10, "seed_3/x": 2.0})
    assert finished == "finished"
    assert again["id"] == started["id"]


def test_wandb_is_imported_only_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # makes `import wandb` fail
    writer(tmp_path, wandb="off")
    with pytest.raises(UserError, match="pip install wandb"):
        writer(tmp_path, wandb="online")


def test_unknown_wandb_mode_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"'on'.*'off', 'offline', 'online'"):
        writer(tmp_path, wandb="on")


def test_blocked_folder_is_a_user_error(tmp_path):
    (tmp_path / "metrics").write_text("")
    with pytest.raises(UserError, match="metrics could not be written"):
        writer(tmp_path)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"a": 1.0}, {"a": 2.0}], None),
        ([{"a": 1.0}, {"a": 2.0, "b": math.nan, "c": math.nan}], (1, "b")),
        ([{"a": -math.inf}], (0, "a")),
        ([{"a": None}], (0, "a")),
        ([{"eval/return": math.nan, "eval/length": None, "a": 1.0}], None),
        ([{"eval/return": math.nan, "eval/length": 5.0}], (0, "eval/return")),
        ([{"eval/return": math.inf}], (0, "eval/return")),
        ([{"a": np.float32(math.nan)}], (0, "a")),
    ],
)
def test_first_non_finite(rows, expected):
    assert first_non_finite(rows) == expected
