"""Demand fitted to two real traces, for scenarios to name.

``{kind: fitted, name: azure-2023-prompt}`` stands for one of ``DISTRIBUTIONS``, and arrivals of
``{kind: fitted, name: azure-2023, rate_per_end_per_s: 0.1}`` for a bursty process with the burst factor and means of
one of ``BURSTS``. The fits come from ``python benchmarks/demand.py DATA --constants``, which prints all that follows;
without ``--constants`` it prints how near they come.

- *azure-2023*: one hour of production chat requests (Azure LLM inference trace 2023, Azure/AzurePublicDataset, CC BY
  4.0). *gentd26*: production Stable Diffusion requests over 17 days, and load times in seconds of adapters and base
  models (GenTD26, alibaba/clusterdata; Lin et al., SoCC 2025).
- ``Quantiles`` have 101 points; the last is placed so that the top percent keeps its mean, so the very largest
  values of the trace are never drawn. ``Choice`` weights are how often each value occurs. Sizes of one task are drawn
  independently: the rank correlation of prompt and answer is 0.07, but tasks of several images ask for adapters
  three times as often as those of one (0.28 against 0.09).
- ``BURSTS`` match the mean rate of the whole trace, the index of dispersion of counts in windows of 1 s and 10 s, and
  the third moment at 10 s. Slower swings (the trend of the hour, the hours of the day) are not in them.
"""

from __future__ import annotations

from collections.abc import Mapping

from gainnet.scenario.demand import Bursty, Choice, Quantiles

GENTD26_ADAPTER_PROBABILITY = 0.1629

BURSTS: Mapping[str, Bursty] = {
    "azure-2023": Bursty(rate_per_end_per_s=5.530422, burst_factor=1.281, burst_mean_s=17.3895, calm_mean_s=19.0179),
    "gentd26": Bursty(rate_per_end_per_s=0.011947, burst_factor=4.9153, burst_mean_s=35.2799, calm_mean_s=169.1901),
}

DISTRIBUTIONS: Mapping[str, Quantiles | Choice] = {
    "azure-2023-prompt": Quantiles(
        points=(
            2, 29, 91, 161, 181, 181, 191, 197, 201, 203, 207, 212, 222, 242, 317, 372, 375, 378, 381, 384, 387, 390,
            392, 394, 395, 396, 398, 399, 400, 402, 403, 405, 406, 408, 411, 414, 419, 424, 433, 456, 703, 863, 903,
            946, 972, 984, 994, 1002, 1009, 1014, 1020, 1025, 1031, 1036, 1041, 1045, 1050, 1055, 1060, 1065, 1071,
            1076, 1081, 1086, 1092, 1097, 1102, 1109, 1116, 1122, 1130, 1139, 1147, 1159, 1171, 1189, 1214, 1249,
            1311, 1314, 1315, 1321, 1368, 1508, 1689, 1876, 2032, 2221, 2401, 2584, 2734, 3291, 4073, 4076, 4079,
            4083, 4086, 4090, 4098, 4142, 5921,
        ),
    ),
    "azure-2023-output": Quantiles(
        points=(
            7, 16, 24, 32, 38, 41, 44, 47, 49, 52, 54, 57, 59, 62, 64, 67, 69, 71, 73, 75, 77, 79, 81, 82, 84, 85, 86,
            87, 89, 90, 91, 92, 93, 94, 95, 96, 97, 99, 100, 101, 103, 105, 107, 108, 110, 113, 116, 118, 122, 125,
            129, 133, 137, 141, 145, 151, 156, 161, 163, 169, 177, 182, 190, 202, 216, 217, 237, 371, 375, 378, 384,
            387, 390, 393, 394, 395, 396, 396, 397, 398, 400, 402, 404, 407, 410, 411, 414, 415, 417, 420, 424, 428,
            429, 433, 442, 451, 468, 509, 540, 601, 819,
        ),
    ),
    "gentd26-steps": Choice(
        values=(
            1, 5, 8, 10, 15, 17, 18, 20, 21, 23, 24, 25, 26, 28, 30, 32, 33, 34, 35, 38, 39, 40, 41, 43, 44, 45, 49,
            50, 51, 52, 53, 55, 60, 64, 65, 68, 69, 70, 71, 73, 76, 80, 86, 90, 98, 100,
        ),
        weights=(
            2, 2, 20, 1, 1, 1, 5, 43, 1, 4, 3, 68, 20, 109, 16240, 6, 13, 21, 86, 99, 1, 915, 3, 7, 24, 10, 12, 36, 2,
            2, 10, 2, 13, 5, 2, 15, 2, 5, 2, 4, 7, 2, 2, 2, 3, 32,
        ),
    ),
    "gentd26-images": Choice(
        values=(
            1, 2, 3, 4, 5, 8,
        ),
        weights=(
            10407, 1431, 9, 3506, 4, 2508,
        ),
    ),
    "gentd26-adapter-load": Quantiles(
        points=(
            0.631, 0.793, 0.833, 0.883, 0.961, 1.131, 1.289, 1.476, 1.99, 2.501, 2.701, 2.84, 2.929, 3.002, 3.068,
            3.132, 3.186, 3.235, 3.282, 3.33, 3.374, 3.415, 3.457, 3.498, 3.534, 3.571, 3.607, 3.643, 3.674, 3.71,
            3.742, 3.777, 3.809, 3.841, 3.866, 3.898, 3.934, 3.967, 3.997, 4.03, 4.062, 4.096, 4.128, 4.156, 4.188,
            4.218, 4.25, 4.282, 4.316, 4.346, 4.378, 4.411, 4.444, 4.474, 4.507, 4.54, 4.575, 4.61, 4.648, 4.683,
            4.719, 4.757, 4.792, 4.827, 4.859, 4.894, 4.931, 4.967, 5.002, 5.042, 5.083, 5.124, 5.163, 5.198, 5.24,
            5.284, 5.325, 5.374, 5.418, 5.464, 5.51, 5.555, 5.605, 5.656, 5.71, 5.772, 5.835, 5.906, 5.979, 6.052,
            6.143, 6.238, 6.344, 6.453, 6.589, 6.767, 6.952, 7.209, 7.565, 8.213, 15.18,
        ),
    ),
    "gentd26-base-load": Quantiles(
        points=(
            1.329, 1.531, 1.66, 1.861, 2.074, 2.287, 2.447, 2.52, 2.56, 2.597, 2.629, 2.659, 2.685, 2.711, 2.735,
            2.762, 2.79, 2.82, 2.846, 2.884, 2.918, 2.963, 3.002, 3.05, 3.097, 3.144, 3.21, 3.29, 3.375, 3.486, 3.643,
            3.957, 4.381, 4.956, 5.855, 7.599, 10.512, 18.113, 19.228, 19.708, 20.056, 20.409, 20.659, 20.934, 21.159,
            21.434, 21.69, 21.96, 22.229, 22.476, 22.718, 22.944, 23.23, 23.564, 23.853, 24.214, 24.542, 24.993,
            25.547, 26.147, 26.91, 28.049, 29.352, 30.854, 32.062, 33.017, 33.771, 34.282, 34.703, 35.062, 35.39,
            35.68, 36.059, 36.342, 36.575, 36.921, 37.193, 37.522, 37.766, 37.996, 38.295, 38.585, 38.89, 39.224,
            39.521, 39.824, 40.252, 40.63, 41.066, 41.513, 41.988, 42.463, 43.079, 43.69, 44.469, 45.446, 46.424,
            47.795, 49.424, 51.846, 58.174,
        ),
    ),
}  # fmt: skip
