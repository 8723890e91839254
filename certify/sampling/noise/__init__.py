"""The noises: what is done to an input before the classifier sees it, and the radius that votes under it prove. One class each."""

from __future__ import annotations

from certify.sampling.noise.base import Noise
from certify.sampling.noise.gaussian import Gaussian
from certify.sampling.noise.grid import DiscreteGaussian
from certify.sampling.noise.uniform import Uniform

NOISES: dict[str, type[Noise]] = {
    "gaussian": Gaussian,
    "discrete-gaussian": DiscreteGaussian,
    "uniform": Uniform,
}
