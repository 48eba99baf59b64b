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
    config.agent = placeholder(
        str
    )  # composes the parts: "sac", "mbpo", "dhmbpo", "dyna", "mpc"; default: the recipe's
    config.env = env  # Gymnasium environment id
    config.env_on_device = placeholder(
        bool
    )  # step it inside the compiled program; default: where its dynamics exist in JAX
    # Published constants. "original": Janner et al. 2019; "mbrl_lib": Pineda et al. 2021;
    # "modhe2022": those and the choices of the value-aware code of Modhe et al.; "dhmbpo_lite",
    # "dhmbpo_plus": configs/dhmbpo2025.py. Default: "dhmbpo_lite" for that agent, else "original".
    config.preset = placeholder(str)
    config.seed = 0  # first seed
    config.num_seeds = 1  # seeds trained together: seed, seed + 1, ...

    config.total_steps = placeholder(
        int
    )  # environment steps per seed, initial exploration included
    config.initial_steps = placeholder(int)  # uniformly random steps before learning starts
    config.epoch_length = placeholder(int)  # environment steps between evaluations
    config.eval_episodes = 10  # greedy episodes per seed and evaluation
    config.eval_untrained = True  # evaluate before learning begins, too
    config.updates_per_step = placeholder(int)  # policy gradient updates per environment step
    config.update_every = 1  # do them at every so many environment steps only
    config.discount = placeholder(float)
    config.replay_capacity = placeholder(int)  # transitions per seed; default total_steps
    config.precision = "float32"  # of factors in all products; "bfloat16", or "auto": the faster

    config.sac = sac = ml_collections.ConfigDict()
    sac.batch_size = placeholder(int)
    sac.hidden_width = placeholder(int)  # units per hidden layer of policy and critics
    sac.hidden_depth = placeholder(int)  # hidden layers of policy and critics
    sac.layer_norm = placeholder(bool)  # LayerNorm before every critic activation
    sac.num_critics = placeholder(int)  # the target is the minimum over all, in dhmbpo over two
    sac.learning_rate = placeholder(float)  # Adam step size, unless given for a part below
    sac.critic_learning_rate = placeholder(float)
    sac.policy_learning_rate = placeholder(float)
    sac.temperature_learning_rate = placeholder(float)
    sac.max_grad_norm = placeholder(float)  # clips gradients of policy and critics; 0: never
    sac.policy_update_every = placeholder(int)  # critic updates per policy update
    sac.target_update_rate = placeholder(float)  # Polyak coefficient tau
    sac.target_update_every = placeholder(int)  # updates between target updates
    sac.learn_temperature = placeholder(bool)
    sac.initial_temperature = placeholder(
        float
    )  # entropy coefficient alpha; its fixed value when not learned
    sac.target_entropy = placeholder(float)  # nats; default -action_size
    sac.explore_greedily = placeholder(bool)  # act with the policy's mean while training

    config.dhmbpo = dhmbpo = ml_collections.ConfigDict()  # beside sac's fields
    dhmbpo.horizon = 5  # model steps of a training rollout, through which gradients flow
    dhmbpo.distribution_horizon = 20  # model steps from real states, to states that updates draw
    dhmbpo.ring_capacity = 51_200  # such states, the newest
    dhmbpo.updates_per_rollout = placeholder(int)  # updates between distribution rollouts
    dhmbpo.critic_updates = 62  # of the critics alone, after every fit
    dhmbpo.refreshes_per_reset = 4  # a reset forgets the moments of the optimisers; 0: never
    dhmbpo.early_share = 0.0  # of distribution rollouts that start early in an episode
    dhmbpo.early_steps = 100  # which steps of an episode are early

    config.soft_q = soft_q = ml_collections.ConfigDict()  # for discrete actions, beside sac's
    soft_q.temperature = 0.01  # alpha of alpha log sum exp(Q / alpha); 0: the maximum
    soft_q.exploration = 0.1  # share of uniformly random actions while training
    soft_q.evaluate_greedily = False  # else evaluation samples from the softmax, as published

    config.model = model = ml_collections.ConfigDict()
    model.objective = placeholder(str)  # training loss: a name in models/objectives/
    model.num_members = placeholder(int)
    model.num_elites = placeholder(int)  # members with the lowest hold-out error, used for rollouts
    model.hidden_width = placeholder(int)
    model.hidden_depth = placeholder(int)
    model.layer_norm = placeholder(bool)  # LayerNorm before every activation
    model.dropout = placeholder(float)  # share of hidden units dropped in a gradient step
    # A "head" predicts it, or it is one number for each member and target: a learned "constant", or
    # "holdout", after every fit that of the held-out residuals.
    model.variance = placeholder(str)
    model.activation = placeholder(str)  # "silu", "relu" or "tanh"
    model.initializer = placeholder(str)  # "truncated_normal" (PETS), "orthogonal" or "torch"
    model.head_scale = placeholder(float)  # multiplies the initial weights of the last layer
    model.separate_reward = placeholder(bool)  # the reward has a network of its own
    model.learning_rate = placeholder(float)
    model.averaging = placeholder(float)  # decay of the mean over a fit's weights; 0: the last
    model.weight_decay = placeholder(
        tuple
    )  # L2 coefficient per layer, input to head; one value serves all layers
    model.decoupled_decay = placeholder(bool)  # beside the gradient (AdamW), not through Adam
    model.batch_size = 256  # rows per member and gradient step
    model.train_every = placeholder(int)  # environment steps between fits
    model.learn_variance_bounds = placeholder(
        bool
    )  # train the soft bounds of the predicted log-variance
    model.predict_delta = placeholder(
        bool
    )  # predict next_observation - observation rather than next_observation
    model.learn_reward = True  # False: use the environment's known reward function
    model.normalize_targets = placeholder(
        bool
    )  # z-score the regression targets as well as the inputs; default only for cf_mbpo
    model.freeze_constant = placeholder(
        bool
    )  # targets that never varied are predicted to be what they were; with normalize_targets
    model.sl_noise = 0.0  # std of noise on fitted observations, as a fraction of each one's mean
    model.bootstrap = True  # each member draws its own training rows with replacement, once per fit
    model.holdout_ratio = 0.2  # share of the replay held out of a fit
    model.holdout_max = 5000  # most transitions held out
    model.permanent_holdout = placeholder(bool)  # a row is held out in every fit or in none
    model.improvement_threshold = 0.01  # relative improvement of the hold-out error that counts
    model.patience = placeholder(int)  # epochs without improvement before the fit stops
    model.incumbent_competes = placeholder(bool)  # the weights before a fit count as its first best
    model.validation = placeholder(str)  # what stops fits, chooses elites: "mse" or "objective"
    model.max_grad_norm = placeholder(float)  # clips all members' gradient; 0: never
    model.max_gradient_steps = placeholder(
        int
    )  # cap per fit; 0: none (the published stopping rule)
    model.first_gradient_steps = placeholder(int)  # cap of the first fit; 0: as for the others
    model.max_epochs = 0  # cap per fit; 0: none
    model.keep = "best"  # weights of a fit: "best" on held-out rows, or "last", at the caps alone

    config.rollout = rollout = ml_collections.ConfigDict()
    rollout.filter = placeholder(str)  # which model rollouts to keep: a name in agents/filters.py
    rollout.starts = placeholder(int)  # start states per refresh, drawn from the real replay
    rollout.schedule = placeholder(
        tuple
    )  # (from_step, to_step, from_length, to_length), steps after initial exploration
    rollout.retain_steps = placeholder(
        int
    )  # environment steps for which model transitions stay in use
    rollout.deterministic = placeholder(
        bool
    )  # predict the mean instead of sampling; default: if the objective does not train the variance
    rollout.real_ratio = placeholder(float)  # share of real transitions in a policy batch

    config.planner = planner = ml_collections.ConfigDict()  # of agents that plan
    planner.name = placeholder(str)  # "random_shooting", "cem", "icem" or "mppi"
    planner.horizon = placeholder(int)  # actions of a plan
    planner.num_candidates = placeholder(int)  # action sequences per iteration
    planner.num_iterations = placeholder(int)  # of drawing candidates around the best so far
    planner.num_elites = placeholder(int)  # best candidates that cem and icem fit a Gaussian to
    planner.smoothing = placeholder(float)  # weight of the elites' moments; 1: nothing else counts
    planner.sampler = placeholder(str)  # cem's Gaussians: "clipped" to the bounds or "truncated"
    planner.warm_start = placeholder(bool)  # cem starts from the last plan, else uniformly
    planner.execute_best = placeholder(bool)  # the best candidate instead of the Gaussian's mean
    planner.noise_beta = placeholder(float)  # icem: exponent of the noise's power spectrum
    planner.decay = placeholder(float)  # icem: factor by which candidates get fewer
    planner.kept_fraction = placeholder(float)  # icem: share of elites that stay candidates
    planner.gamma = placeholder(float)  # mppi: inverse temperature per unit of return
    planner.sigma = placeholder(float)  # mppi: std of the noise, in half the width of the bounds
    planner.beta = placeholder(float)  # mppi: weight of the new action in the smoothing; 1: none
    planner.propagation = placeholder(
        str
    )  # which member predicts what: "ts1", "tsinf", "expectation" or "per_member"
    planner.num_particles = placeholder(int)  # imagined trajectories per candidate
    planner.ignore_termination = placeholder(bool)  # rewards after a termination count too

    config.objective = objective = ml_collections.ConfigDict()  # value-aware model losses
    objective.critic = placeholder(str)  # "first", "min" or "mean" of them; "target": their min
    objective.action = placeholder(str)  # of the policy, in that value: "mean" or "sample"
    objective.num_model_samples = placeholder(int)  # per row; 0: the mean prediction
    objective.mask_terminal = placeholder(bool)  # states after a termination have value 0
    objective.include_entropy = False  # the value has the entropy bonus
    objective.include_discount = placeholder(bool)  # as beside the reward in a backup
    objective.reduction = placeholder(str)  # over the rows of a batch: "mean" or "sum"
    objective.value_weight = placeholder(float)  # beside the error of the reward
    objective.mle_weight = 0.0  # of the likelihood that may be added
    objective.gradient_quantile = 0.95  # vagram: longer value gradients are shortened; 1: none
    objective.vagram_form = "bounded"  # or "taylor"
    objective.vep_form = placeholder(str)  # "backup", or "separate": the reward has its own square
    objective.vep_functions = placeholder(
        str
    )  # value functions: "random" outputs of one network, "networks", or "critics" of the last fits
    objective.vep_count = 5  # how many of them

    config.omd = omd = ml_collections.ConfigDict()  # implicit differentiation, and one-step agents
    omd.inverse = "identity"  # of the critics' Hessian: "identity", "neumann", "cg" or "exact"
    omd.cg_steps = 100  # most conjugate-gradient steps
    omd.cg_tolerance = 1e-5  # relative residual at which they stop
    omd.damping = 1e-5  # added to the Hessian's diagonal by "cg" and "exact"
    omd.neumann_terms = 10
    omd.neumann_step = 0.1  # below 2 / (largest eigenvalue of the Hessian)
    omd.inner_steps = 1  # critic updates in the model per model update
    omd.fresh_optimizer = placeholder(bool)  # the learner's Adam forgets before every hypergradient
    omd.fresh_critics = False  # untrained critics before every hypergradient
    omd.fresh_batch = placeholder(bool)  # learner and model get different rows; not with omd
    omd.diagnose_every = placeholder(
        int
    )  # environment steps between diagnostics of a one-step agent; 0: never

    config.refit = refit = ml_collections.ConfigDict()  # of the critics, within the model fit
    refit.interval = placeholder(int)  # gradient steps of the model between refits; 0: never
    refit.starts = placeholder(int)  # rollouts per refit, in the model as it is
    refit.updates = placeholder(int)  # critic updates per refit

    # Names from the code of Modhe et al. 2021 for fields above. What is given here is copied there.
    config.model_loss_type = placeholder(str)  # "mle" or "va": model.objective
    config.va_norm = placeholder(str)  # "l1" (ma_l1) or "l2" (vaml), with model_loss_type "va"
    config.va_loss_coeff = placeholder(float)  # objective.value_weight
    config.value_update_interval = placeholder(int)  # refit.interval
    config.num_v_updates_in_model = placeholder(int)  # refit.updates
    config.v_update_batch_size = placeholder(int)  # refit.starts

    config.use_algo = placeholder(
        str
    )  # parts of cf_mbpo: "discriminator", "reward", "both" (default), or "mbpo" for none
    config.flow = flow = ml_collections.ConfigDict()
    flow.inputs = "sars"  # what the flows see: state, action, reward, change of the state
    flow.conditional = False  # score the outcome given (s, a), in which the policy cancels
    flow.horizon = 5  # steps of the real and model segments that are compared
    flow.num_starts = 1000  # segments per refresh, and as many held-out ones
    flow.recency = 5000  # newest real transitions the segments are drawn from
    flow.kind = "affine"  # coupling layers: "affine" or "spline"
    flow.num_layers = 6
    flow.hidden_width = 64
    flow.hidden_depth = 2
    flow.squash = (2.0, 2.0)  # (a, b) of b tanh(x / a) in the coupled loss; (1, 1): as published
    flow.score_form = "asinh"  # scores and rewards are cap asinh(x / cap); or "tanh", bounded
    flow.score_cap = 10.0  # nats
    flow.dv_weight = 1.0  # of the Donsker-Varadhan term; 0: two separate maximum-likelihood flows
    flow.nll_weight = 1.0  # of each flow's negative log-likelihood
    flow.smoothing = 0.1  # scale of the noise on both sides: standard deviations of z
    flow.smoothing_form = "gaussian"  # "multiplicative": uniform, relative to z, as in CFIL
    flow.warmup_steps = (1000, 500)  # gradient steps of the first refresh: likelihood, full loss
    flow.warmup_learning_rate = 1e-3  # decays over the warm-up to learning_rate
    flow.learning_rate = 3e-4
    flow.num_steps = 200  # gradient steps of every later refresh
    flow.batch_size = 512  # rows of each side
    flow.discount = 0.99  # of the rollout MDP, whose reward is the flows' score
    flow.rule = "filter"  # what the discriminator does: "filter", "plan" or "weight"
    flow.min_kept = 0.5  # filter: smallest fraction of the model rows that is kept
    flow.min_divergence = 0.05  # filter: nats below which nothing is dropped
    flow.max_weight = 5.0  # weight: largest importance weight
    flow.num_candidates = 4  # plan: candidates per row
    flow.lookahead = 3  # plan: steps by which a candidate is judged
    flow.estimator = "path"  # of the model's policy gradient: "path", "score" or "ac"
    flow.rl_weight = placeholder(float)  # of the reward; halved when the gate closes
    flow.mle_weight = 1.0  # of the likelihood that anchors the refinement
    flow.refine_steps = 100  # most model steps per refresh
    flow.refine_starts = 64  # rollouts per elite and model step
    flow.refine_learning_rate = 3e-4
    flow.flow_steps_per_refinement = 5  # flow steps before each model step
    flow.gate_tolerance = 0.02  # relative growth of the held-out open-loop error that passes

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_epochs = 1  # epochs between checkpoints; 0: none, the run cannot be resumed

    config.logging = logging = ml_collections.ConfigDict()
    logging.tensorboard = True
    logging.wandb = "off"  # "off", "offline" or "online"; needs `pip install wandb`
    logging.wandb_project = "omd"

    config.lock()
    return config
