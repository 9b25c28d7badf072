"""What maps normalized points to normalized displacements."""

from inrreg.fields.base import Field, Jet, from_spec
from inrreg.fields.conditioned import Conditioned
from inrreg.fields.conditioned_separable import ConditionedSeparable
from inrreg.fields.cycle import Cycle
from inrreg.fields.dual import Dual
from inrreg.fields.ensemble import Ensemble
from inrreg.fields.flow import Flow
from inrreg.fields.infused import Infused
from inrreg.fields.lattice import Lattice, LatticeGeometry
from inrreg.fields.rigid import Rigid
from inrreg.fields.separable import Separable
from inrreg.fields.siren import Siren
from inrreg.fields.sliding import Sliding
from inrreg.fields.velocity import TimedSeparable, TimedSiren, VelocityLattice

__all__ = [
    "Conditioned",
    "ConditionedSeparable",
    "Cycle",
    "Dual",
    "Ensemble",
    "Field",
    "Flow",
    "Infused",
    "Jet",
    "Lattice",
    "LatticeGeometry",
    "Rigid",
    "Separable",
    "Siren",
    "Sliding",
    "TimedSeparable",
    "TimedSiren",
    "VelocityLattice",
    "from_spec",
]
