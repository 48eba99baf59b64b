"""What the tabular experiments of Nikishin et al. 2022 (arXiv 2106.03273) are known to give.

Three sources: the figures of the paper, whose vector graphics give coordinates to about 0.5 % of
an axis; the released notebook, run again after repairs for today's JAX; and the table that its
first version still holds. Values are means over ten seeds unless said otherwise.
"""

import numpy as np

BOUNDS = np.linspace(0.0, 6.0, 20)  # bounds on the norm of a model, released notebook

# Figure 1, read off the paper: return by bound, for the eight bounds that it plots.
FIGURE_1_BOUNDS = (1, 2, 3, 4, 6, 9, 13, 16)  # places in BOUNDS
FIGURE_1 = {
    "mle": (-0.825, -0.722, -0.482, 0.189, 0.663, 0.918, 0.997, 1.013),
    "omd": (-0.593, -0.328, 0.134, 0.592, 0.995, 1.024, 1.022, 1.026),
}

# Return by bound, for all of BOUNDS, by objective and projection: the released code run again,
# with its own rule and with the joint norm of equation 8 in place of it.
# fmt: off
RETURNS = {
    ("mle", "released"): (
        -.8550, -.8251, -.7217, -.4820, .2002, .4498, .6647, .7905, .8678, .9164,
        .9517, .9729, .9859, .9962, 1.0040, 1.0080, 1.0118, 1.0151, 1.0179, 1.0198,
    ),
    ("omd", "released"): (
        -.8550, -.5928, -.3284, .1343, .5963, .8499, .9950, 1.0130, 1.0203, 1.0237,
        1.0172, 1.0154, 1.0194, 1.0220, 1.0238, 1.0251, 1.0262, 1.0267, 1.0271, 1.0272,
    ),
    ("mle", "joint"): (
        -.8550, -.8447, -.8114, -.7496, -.6453, -.4759, -.2372, .0412, .3034, .5156,
        .6725, .7854, .8567, .8988, .9368, 1.0272, 1.0273, 1.0273, 1.0273, 1.0273,
    ),
    ("omd", "joint"): (
        -.8550, -.6645, -.4984, -.4655, -.2931, -.1064, .1077, .6861, .7981, .8737,
        .9281, .9633, .9837, 1.0004, 1.0079, 1.0133, 1.0168, 1.0191, 1.0233, 1.0267,
    ),
}

# Minutes that the released notebook's stored outputs give for its loops over seeds and bounds.
LOOP_MINUTES = {"mle": 2.77, "omd": 5.52}

# Figure 3, read off the paper, for the first 17 of BOUNDS: max |Q* - Q| of both models, and what
# is left between it and the bounds of Theorem 2. OMD minimises the Bellman error here.
FIGURE_3 = {
    "omd error": (
        1.829, 1.826, 1.822, 1.817, 1.811, 1.801, 1.789, 1.769, 1.748, 1.695, 1.653, 1.663,
        1.569, 1.498, 1.507, 1.503, 1.505,
    ),
    "mle error": (
        1.829, 1.827, 1.829, 1.830, 1.840, 1.836, 1.833, 1.829, 1.823, 1.816, 1.811, 1.801,
        1.795, 1.788, 1.780, 1.772, 1.764,
    ),
    "omd slack": (
        3.171, 3.162, 3.149, 3.131, 3.107, 3.073, 3.033, 3.004, 2.961, 2.787, 2.733, 2.662,
        2.558, 2.282, 2.273, 2.158, 2.027,
    ),
    "mle slack": (
        25.22, 21.68, 18.29, 14.38, 3.50, 3.47, 3.23, 3.32, 3.38, 3.32, 3.54, 3.53,
        3.22, 3.19, 3.41, 3.11, 3.17,
    ),
}

# Return by standard deviation of the noise on Q, released code run again; without projection.
NOISE = np.logspace(-3.0, 0.5, 30)
NOISE_PLACES = (11, 13, 15, 16, 17, 18, 19, 20, 21, 22, 23, 27)  # in NOISE
NOISE_RETURNS = {
    "exact": (1.011, .950, .893, .746, .774, .743, .707, .705, .395, .326, -.000, -.091),
    "identity": (1.004, .902, .919, .888, .898, .841, .789, .707, .395, .394, .082, -.091),
}
# fmt: on

# Return objective, released rule, bound 6, seed 1: printed in the notebook's first version.
SEED_1_Q = ((0.98531789, 0.82785433), (1.08500607, 0.86158112))  # one update before the rewards
SEED_1_REWARD = ((0.00945309, -0.05924014), (0.10859976, -0.02551655))
