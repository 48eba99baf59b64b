"""The full configuration, one comment per field; the other files here change a few of them.

A field that is `None` here is filled in when the run starts, from the recipe (`config.algo`), the
preset (`config.preset`) and the environment (`configs/environments.py`), in that order; a value
given on the command line always wins. `config.json` in the run folder records the result.

    python train.py --config.algo=mbpo                    HalfCheetah-v5
    python train.py --config=configs/default.py:Hopper-v5
"""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(env: str = "HalfCheetah-v5") -> ml_collections.ConfigDict:
    """Returns the default configuration for the environment id `env`."""
    config = ml_collections.ConfigDict()

    config.algo = "mbpo"  # recipe: a row of agents/recipes.py
    config.env = env  # Gymnasium environment id
    config.preset = "original"  # constants of Janner et al. 2019; "mbrl_lib": Pineda et al. 2021
    config.seed = 0  # first seed
    config.num_seeds = 1  # seeds trained together: seed, seed + 1, ...

    config.total_steps = placeholder(
        int
    )  # environment steps per seed, initial exploration included
    config.initial_steps = placeholder(int)  # uniformly random steps before learning starts
    config.epoch_length = placeholder(int)  # environment steps between evaluations
    config.eval_episodes = 10  # greedy episodes per seed and evaluation
    config.updates_per_step = placeholder(int)  # policy gradient updates per environment step
    config.discount = 0.99
    config.replay_capacity = placeholder(int)  # transitions per seed; default total_steps

    config.sac = sac = ml_collections.ConfigDict()
    sac.batch_size = 256
    sac.hidden_width = placeholder(int)  # units per hidden layer of policy and critics
    sac.hidden_depth = 2  # hidden layers of policy and critics
    sac.layer_norm = False  # LayerNorm before every critic activation
    sac.num_critics = 2  # the target is the minimum over all of them
    sac.learning_rate = placeholder(float)  # Adam step size of policy, critics and temperature
    sac.target_update_rate = 0.005  # Polyak coefficient tau
    sac.target_update_every = placeholder(int)  # updates between target updates
    sac.learn_temperature = placeholder(bool)
    sac.initial_temperature = placeholder(
        float
    )  # entropy coefficient alpha; its fixed value when not learned
    sac.target_entropy = placeholder(float)  # nats; default -action_size
    sac.explore_greedily = placeholder(bool)  # act with the policy's mean while training

    config.model = model = ml_collections.ConfigDict()
    model.objective = placeholder(str)  # training loss: a name in models/objectives/
    model.num_members = 7
    model.num_elites = 5  # members with the lowest hold-out error, used for rollouts
    model.hidden_width = placeholder(int)
    model.hidden_depth = 4
    model.learning_rate = placeholder(float)
    model.weight_decay = placeholder(
        tuple
    )  # L2 coefficient per layer, input to head; one value serves all layers
    model.batch_size = 256  # rows per member and gradient step
    model.train_every = placeholder(int)  # environment steps between fits
    model.learn_variance_bounds = placeholder(
        bool
    )  # train the soft bounds of the predicted log-variance
    model.predict_delta = (
        True  # predict next_observation - observation rather than next_observation
    )
    model.learn_reward = True  # False: use the environment's known reward function
    model.normalize_targets = False  # z-score the regression targets as well as the inputs
    model.bootstrap = True  # each member draws its own training rows with replacement, once per fit
    model.holdout_ratio = 0.2  # share of the replay held out of a fit
    model.holdout_max = 5000  # most transitions held out
    model.improvement_threshold = 0.01  # relative improvement of the hold-out error that counts
    model.patience = placeholder(int)  # epochs without improvement before the fit stops
    model.incumbent_competes = placeholder(bool)  # the weights before a fit count as its first best
    model.max_gradient_steps = placeholder(
        int
    )  # cap per fit; 0: none (the published stopping rule)

    config.rollout = rollout = ml_collections.ConfigDict()
    rollout.filter = placeholder(str)  # which model rollouts to keep: a name in models/rollout.py
    rollout.starts = placeholder(int)  # start states per refresh, drawn from the real replay
    rollout.schedule = placeholder(
        tuple
    )  # (from_step, to_step, from_length, to_length), steps after initial exploration
    rollout.retain_steps = placeholder(
        int
    )  # environment steps for which model transitions stay in use
    rollout.deterministic = False  # predict the mean instead of sampling the model's Gaussian
    rollout.real_ratio = placeholder(float)  # share of real transitions in a policy batch

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_epochs = 1  # epochs between checkpoints; 0: none, the run cannot be resumed

    config.logging = logging = ml_collections.ConfigDict()
    logging.tensorboard = True
    logging.wandb = "off"  # "off", "offline" or "online"; needs `pip install wandb`
    logging.wandb_project = "omd"

    config.lock()
    return config
