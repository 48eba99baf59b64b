import json

import pytest

from analysis import grouping, runs
from configs import default
from errors import UserError
from experiment import configuration
from experiment.run_folder import flatten


def group(*folders, by=()):
    groups, notes = grouping.group(runs.load(folders)[0], by)
    labels = {(g.env, g.label): [(m.run.folder.name, m.seed) for m in g.members] for g in groups}
    return labels, notes


def labels(*folders, by=()):
    return [label for _, label in group(*folders, by=by)[0]]


def test_seeds_of_runs_that_differ_in_nothing_that_matters_are_one_group(make_run):
    # Different seeds, numbers of seeds, lengths, evaluations, checkpoints and replay capacities
    # that are never filled.
    a = make_run("a", {0: [1.0] * 3, 1: [1.0] * 3}, replay_capacity=3000)
    b = make_run(
        "b",
        {2: [2.0] * 4},
        total_steps=9000,
        replay_capacity=9000,
        eval_episodes=3,
        eval_untrained=False,
        epoch_length=500,
        **{"checkpoint.every_epochs": 7, "logging.tensorboard": False},
    )
    assert group(a, b) == ({("Hopper-v5", "mbpo"): [("a", 0), ("a", 1), ("b", 2)]}, [])


def test_a_replay_that_forgets_is_another_experiment(make_run):
    a = make_run("a", {0: [1.0] * 3}, replay_capacity=3000)
    b = make_run("b", {0: [1.0] * 3}, replay_capacity=1000)
    assert labels(a, b) == ["mbpo", "replay_capacity=1000"]


def test_algorithms_that_differ_in_many_fields_are_called_by_their_names(make_run):
    a = make_run("a", {0: [1.0]}, updates_per_step=20, **{"model.hidden_width": 200})
    b = make_run(
        "b",
        {0: [1.0]},
        algo="sac",
        updates_per_step=1,
        **{"model.hidden_width": 7, "sac.hidden_width": 1024},
    )
    assert labels(a, b) == ["mbpo", "sac"]


def test_a_sweep_is_called_by_its_field(make_run):
    folders = [make_run(str(w), {0: [1.0]}, **{"model.hidden_width": w}) for w in (64, 200)]
    assert labels(*folders) == ["model.hidden_width=64", "model.hidden_width=200"]


def test_sampled_models_of_one_step_agents_are_another_experiment(make_run):
    one_step = {"algo": "omd", "agent": "dyna", "model.objective": "omd"}
    a = make_run("a", {0: [1.0]}, **one_step, **{"rollout.deterministic": True})
    b = make_run("b", {1: [1.0]}, **one_step, **{"rollout.deterministic": False})
    assert len(labels(a, b)) == 2


def test_a_field_that_means_nothing_to_the_algorithm_makes_no_difference(make_run):
    a = make_run("a", {0: [1.0]}, algo="sac", **{"model.hidden_width": 1})
    b = make_run("b", {1: [1.0]}, algo="sac", **{"model.hidden_width": 2})
    assert labels(a, b) == ["sac"]


def test_fields_that_differ_together_are_named_by_one_of_them(make_run):
    a = make_run("a", {0: [1.0]}, **{"model.patience": 6, "model.hidden_width": 64})
    b = make_run("b", {0: [1.0]}, **{"model.patience": 5, "model.hidden_width": 200})
    found, notes = group(a, b)
    assert [label for _, label in found] == [
        "model.hidden_width=64",
        "model.hidden_width=200",
    ]
    assert notes == [
        "mbpo on Hopper-v5: besides what their names say, groups differ in model.patience."
    ]


def test_fields_that_differ_independently_are_all_named(make_run):
    folders = [
        make_run(f"{w}-{p}", {0: [1.0]}, **{"model.patience": p, "model.hidden_width": w})
        for w in (64, 200)
        for p in (5, 6)
    ]
    assert "model.hidden_width=64, model.patience=5" in labels(*folders)
    assert len(set(labels(*folders))) == 4


def test_a_field_that_others_make_superfluous_is_not_named(make_run):
    # batch_size alone splits {a} from {b, c}; width tells all three apart by itself.
    def run(name, batch, width):
        fields = {"model.batch_size": batch, "model.hidden_width": width}
        return make_run(name, {0: [1.0]}, **fields)

    found = labels(run("a", 256, 1), run("b", 512, 2), run("c", 512, 3))
    assert found == [f"model.hidden_width={width}" for width in (1, 2, 3)]


def test_a_part_that_is_swapped_goes_before_a_number_in_the_name(make_run):
    fields = {"rollout.filter": "flow_reward", "flow.horizon": 5, "discount": 0.9}
    a = make_run("a", {0: [1.0]}, algo="cf_mbpo", use_algo="reward", **fields)
    fields = {"rollout.filter": "flow_discriminator", "flow.horizon": 9, "discount": 0.8}
    b = make_run("b", {0: [1.0]}, algo="cf_mbpo", use_algo="discriminator", **fields)
    assert labels(a, b) == ["use_algo=discriminator", "use_algo=reward"]


def test_only_the_algorithms_with_a_sweep_are_named_by_it(make_run):
    a = make_run("a", {0: [1.0]}, **{"model.hidden_width": 64})
    b = make_run("b", {0: [1.0]}, **{"model.hidden_width": 200})
    c = make_run("c", {0: [1.0]}, algo="sac")
    assert labels(a, b, c) == [
        "mbpo, model.hidden_width=64",
        "mbpo, model.hidden_width=200",
        "sac",
    ]


def test_constants_of_an_environment_do_not_split_an_algorithm(make_run):
    folders = [
        make_run(f"{algo}-{env}", {0: [1.0]}, env=env, algo=algo, updates_per_step=updates)
        for algo in ("mbpo", "sac")
        for env, updates in (("Hopper-v5", 20), ("HalfCheetah-v5", 40))
    ]
    found, _ = group(*folders)
    assert list(found) == [
        ("HalfCheetah-v5", "mbpo"),
        ("HalfCheetah-v5", "sac"),
        ("Hopper-v5", "mbpo"),
        ("Hopper-v5", "sac"),
    ]


def test_a_name_is_the_same_in_every_environment(make_run):
    a = make_run("a", {0: [1.0]}, **{"model.hidden_width": 64})
    b = make_run("b", {0: [1.0]}, **{"model.hidden_width": 200})
    c = make_run("c", {0: [1.0]}, env="HalfCheetah-v5", **{"model.hidden_width": 200})
    found, _ = group(a, b, c)
    assert ("HalfCheetah-v5", "model.hidden_width=200") in found


def test_grouping_by_a_field_pools_the_others_and_says_so(make_run):
    a = make_run("a", {0: [1.0]}, **{"model.hidden_width": 64})
    b = make_run("b", {0: [1.0]}, **{"model.hidden_width": 200})
    found, notes = group(a, b, by=["algo"])
    # Both seeds 0 count, as they are different experiments.
    assert found == {("Hopper-v5", "mbpo"): [("a", 0), ("b", 0)]}
    assert notes == [
        "Grouped by algo, so runs that differ in model.hidden_width are pooled: each of their "
        "seeds counts as a sample of the group."
    ]


def test_grouping_by_a_field_that_an_algorithm_lacks(make_run):
    a = make_run("a", {0: [1.0]}, **{"model.hidden_width": 64})
    b = make_run("b", {0: [1.0]}, algo="sac")
    assert labels(a, b, by=["model.hidden_width"]) == [
        "model.hidden_width=64",
        "without model.hidden_width",
    ]
    assert labels(a, b, by=["algo", "model.hidden_width"]) == ["mbpo, model.hidden_width=64", "sac"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.hidden_with", "no run has this field. Did you mean model.hidden_width?"),
        ("env", "has a panel of its own anyway"),
        ("logging.wandb", "makes no other experiment"),
    ],
)
def test_a_field_that_cannot_group_is_a_user_error(make_run, name, message):
    with pytest.raises(UserError, match=f"--group-by={name}: .*{message}"):
        group(make_run("a", {0: [1.0]}), by=[name])


def test_a_run_that_is_older_than_some_fields_is_no_other_experiment(make_run):
    fields = flatten(configuration.resolve(default.get_config("Hopper-v5")).to_dict())
    of_runs = ("env", "seed", "num_seeds", "total_steps")
    fields = {name: value for name, value in fields.items() if name not in of_runs}
    old, new = make_run("old", {0: [1.0]}, **fields), make_run("new", {1: [1.0]}, **fields)
    content = json.loads((old / "config.json").read_text())
    for name in ("layer_norm", "variance", "first_gradient_steps"):
        assert content["config"]["model"].pop(name) is not None
    del content["config"]["sac"]["critic_learning_rate"]
    (old / "config.json").write_text(json.dumps(content))
    assert group(old, new)[0] == {("Hopper-v5", "mbpo"): [("old", 0), ("new", 1)]}
    other = make_run("other", {2: [1.0]}, **fields | {"model.layer_norm": True})
    assert labels(old, new, other) == ["model.layer_norm=false", "model.layer_norm=true"]


def test_of_the_same_seed_twice_the_longer_run_counts(make_run):
    short = make_run("short", {0: [1.0], 1: [1.0]}, total_steps=3000)
    long = make_run("long", {1: [1.0, 2.0, 3.0], 2: [1.0, 2.0, 3.0]})
    for order in ((short, long), (long, short)):
        found, notes = group(*order)
        assert sorted(found["Hopper-v5", "mbpo"]) == [("long", 1), ("long", 2), ("short", 0)]
        assert notes == [
            f"{short}: the same experiment with the same seed is in {long}, which went at least "
            "as far and counts; seed 1 here is left out."
        ]
