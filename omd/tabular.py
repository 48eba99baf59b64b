"""Models of a two-state MDP: soft Bellman operator, losses, bounds, and what a model is worth.

Everything is exact: no sampling, no function approximation. (Nikishin et al. 2022,
"Control-Oriented Model-Based Reinforcement Learning with Implicit Differentiation",
arXiv 2106.03273, equations 6 to 8, Theorem 2.) `omd/tabular_fit.py` fits the models.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class MDP(NamedTuple):
    """A finite Markov decision process with S states and A actions.

    Attributes:
      transition: [A, S, S], probability of the next state (last axis).
      reward: [S, A].
      start: [S], distribution of the first state.
      discount: in [0, 1).
      temperature: of the soft maximum over actions, and of models' transition probabilities.
    """

    transition: chex.Array
    reward: chex.Array
    start: chex.Array
    discount: chex.Numeric
    temperature: chex.Numeric


class Model(NamedTuple):
    """Parameters of a learned MDP: transition = softmax(logits / temperature), reward as it is.

    Logits are in units of the temperature, so that steps of one size suit both fields.
    """

    logits: chex.Array  # [A, S, S]
    reward: chex.Array  # [S, A]


def two_state_mdp() -> MDP:
    """Returns the MDP of the paper's tabular experiments (Dadashi et al. 2019, appendix A, d)."""
    return MDP(
        transition=jnp.array([[[0.7, 0.3], [0.2, 0.8]], [[0.99, 0.01], [0.99, 0.01]]]),
        reward=jnp.array([[-0.45, -0.1], [0.5, 0.5]]),
        start=jnp.array([0.5, 0.5]),
        discount=0.9,
        temperature=0.01,
    )


def imagined(mdp: MDP, model: Model) -> MDP:
    """Returns the MDP that the model believes in."""
    transition = jax.nn.softmax(model.logits / mdp.temperature)
    return mdp._replace(transition=transition, reward=model.reward)


def exact_model(mdp: MDP) -> Model:
    """Returns the model of smallest norm that is the MDP itself, all probabilities positive."""
    logits = mdp.temperature * jnp.log(mdp.transition)
    return Model(logits - logits.mean(axis=-1, keepdims=True), mdp.reward)


def soft_value(q: chex.Array, temperature: chex.Numeric) -> chex.Array:
    """Returns V [S] = temperature * log sum_a exp(Q / temperature) of q [S, A]."""
    return temperature * jax.nn.logsumexp(q / temperature, axis=-1)


def bellman(mdp: MDP, q: chex.Array) -> chex.Array:
    """Applies the soft Bellman operator to q [S, A]: reward + discount * E[V(next state)].

    A contraction with modulus `discount` in the sup-norm. There is no entropy bonus besides what
    the soft maximum adds.
    """
    value = soft_value(q, mdp.temperature)
    return mdp.reward + mdp.discount * jnp.einsum("ast,t->sa", mdp.transition, value)


def expected_return(mdp: MDP, q: chex.Array) -> chex.Array:
    """Returns J [], the discounted return in `mdp` of the policy softmax(q / temperature)."""
    policy = jax.nn.softmax(q / mdp.temperature)
    transition = jnp.einsum("ast,sa->st", mdp.transition, policy)
    reward = (policy * mdp.reward).sum(axis=-1)
    value = jnp.linalg.solve(jnp.eye(reward.size) - mdp.discount * transition, reward)
    return mdp.start @ value


def bellman_error(mdp: MDP, q: chex.Array) -> chex.Array:
    """Returns the mean over states and actions of (B q - q)^2, []: 0 at the optimal q alone."""
    return jnp.square(bellman(mdp, q) - q).mean()


def mle_loss(mdp: MDP, model: Model) -> chex.Array:
    """Returns the mean over states and actions of KL(p || model's p) + (difference of rewards)^2.

    What maximum likelihood with all of the MDP's transitions as data minimises, up to a constant.
    """
    log_model = jax.nn.log_softmax(model.logits / mdp.temperature)
    divergence = (mdp.transition * (jnp.log(mdp.transition) - log_model)).sum(axis=-1)
    return jnp.square(model.reward - mdp.reward).mean() + divergence.mean()


def equivalent_reward(mdp: MDP, transition: chex.Array, q: chex.Array) -> chex.Array:
    """Returns the reward [S, A] with which q is optimal under any `transition` [A, S, S]."""
    no_reward = mdp._replace(transition=transition, reward=jnp.zeros_like(q))
    return q - bellman(no_reward, q)


def omd_bound(mdp: MDP, believed: MDP, q: chex.Array) -> chex.Array:
    """Returns max |B q - B_model q| / (1 - discount), [] (Theorem 2).

    No less than max |Q* - q| where q is the fixed point of the model's operator.
    """
    return jnp.abs(bellman(mdp, q) - bellman(believed, q)).max() / (1 - mdp.discount)


def mle_bound(mdp: MDP, believed: MDP) -> chex.Array:
    """Returns the simulation-lemma bound on max |Q* - q| of a model, [] (Theorem 2).

    With the largest error of a reward, e_r, and of a transition in the L1 norm, e_p:
    e_r / (1 - discount) + discount * e_p * max |reward| / (2 (1 - discount)^2). It is proven for
    rewards that are not negative; with signed ones its second term is only safe when doubled.
    """
    reward_error = jnp.abs(believed.reward - mdp.reward).max()
    transition_error = jnp.abs(believed.transition - mdp.transition).sum(axis=-1).max()
    horizon = 1 / (1 - mdp.discount)
    largest = jnp.abs(mdp.reward).max()
    return horizon * reward_error + mdp.discount * horizon**2 * transition_error * largest / 2
