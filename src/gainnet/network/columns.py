"""What the columns of the arrays mean that the radio kernels share: few wide arrays cost less to pass than many.

A user tracks ``slot`` cells, those near it (see ``near``); ``near`` [user slot] says which. In a small network these
are all cells, and slot and cell are the same number.
"""

from __future__ import annotations

import numpy as np

# field [user slot 6]: the true link. Field behind its state and that field's slope along the way, unit-variance field
# of the shadowing, 1 in line of sight and else 0, gain as a natural logarithm and as a ratio.
LATENT, SLOPE, SHADOW, CLEAR, LOG_GAIN, GAIN = range(6)

# memory [user slot 5]: what the last sounding of the link left. Horizontal distance (m), estimate of the shadowing
# field and the variance of its error, attenuation of a sector's antenna (logarithm), probability of line of sight (the
# state seen, 0 or 1; of a cell that has come near since, that at its distance).
DISTANCE, SHADE, DOUBT, LOSS, SEEN_CLEAR = range(5)

# links [user candidate 6]: of each candidate, as the field has it and as the last sounding lets one expect it: line of
# sight, logarithm of the gain and the gain; line of sight, logarithm of the gain and the deviation of that.
TRUE_CLEAR, TRUE_LOG_GAIN, TRUE_GAIN, HELD_CLEAR, HELD_LOG_GAIN, HELD_STD = range(6)

# ends [user 5]: way since the last sounding (m), how long the rival has been better (s), and mean powers of a resource
# block (W): what the user itself sends, what it receives from all cells, and what it would by the gains observed.
MOVED, WAITED, OWN, DOWNLINK, SEEN_DOWNLINK = range(5)

# ties [user 3]: slot of the serving cell (NONE: never had one, LOST: it is no longer near), of its rival, and the tile.
SERVING, RIVAL, TILE = range(3)
NONE, LOST = -1, -2

# cells [cell 6]: place (m), boresight (rad, nan: omnidirectional), 1 if it is up, and mean powers of a resource block
# (W): what it sends, and what it receives from other cells' users.
EAST, NORTH, AZIMUTH, UP, SENT, HEARD = range(6)

RULES = np.dtype(
    [
        (name, np.float64)
        for name in (
            "step_m",  # of the table of channel.tabulate
            "state_m",  # correlation lengths: of the smooth field behind the state of a link,
            "clear_m",  # of the shadowing in line of sight,
            "blocked_m",  # and without it
            "attenuation_max",  # of a sector's antenna (logarithm)
            "beamwidth_rad",  # of a sector's antenna
            "block_w",  # transmit power of a cell in a resource block
            "p0_w",  # open-loop power control of the uplink, per block
            "alpha",
            "limit_w",
            "end_noise_w",  # per block
            "cell_noise_w",
            "margin",  # deviations held back
            "rician_k",
            "spread",  # variance of the power of a fading sample without line of sight
            "clear_spread",  # and with it
            "hysteresis",  # of a hand-over (logarithm)
            "trigger_s",
            "frame_s",
            "way_max_m",  # farthest that an end can be from where it was sounded
            "drop_m",  # height of the cells above the ends
        )
    ]
)
