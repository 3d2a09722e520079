"""A workload with personal data, as a user writes one: is a patient's reading above what is usual at that age?"""

from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from skerry_cloud.workloads import Examples, Workload
from skerry_shared.privacy import drop, generalise, keep, pseudonym
from skerry_shared.release import ANY, Field, TensorSpec


class Patients(Workload):
    name = "patients"
    owner = "tests"
    labels = ("usual", "above")
    input = TensorSpec("row", "float32", (ANY, 4))
    columns: ClassVar[tuple[str, ...]] = ("reading", "age", "patient", "ward")
    policy: ClassVar[tuple[Field, ...]] = (
        pseudonym("patient"),
        generalise("age", step=10, low=20, high=90),
        keep("reading"),
        drop("ward"),
    )
    monitors = ("reading", "ward")
    max_drop = 8.0
    epochs = 6
    batch_size = 16

    def examples(self) -> Examples:
        random = np.random.default_rng(7)
        labels = random.integers(0, 2, 400)
        reading, age = random.normal(labels * 4.0, 1.0), random.uniform(0, 100, 400)
        rows = np.stack([reading, age, random.integers(1, 1 << 24, 400), random.integers(1, 50, 400)], axis=1)
        return Examples(rows.astype(np.float32), labels)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def watch(self, inputs: Tensor) -> Tensor:
        return inputs[:, [0, 3]]


class Unknown(Patients):
    policy = (*Patients.policy, drop("diagnosis"))


class Forgotten(Patients):
    policy = Patients.policy[:-1]


class Unfit(Patients):
    policy = (*Patients.policy[1:], Field("patient", "encrypt"))


class Nameless(Patients):
    columns = ("reading", "age", "patient")
