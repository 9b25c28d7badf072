"""What maps normalized points to normalized displacements."""

from inrreg.fields.base import Field, Jet, from_spec
from inrreg.fields.conditioned import Conditioned
from inrreg.fields.dual import Dual
from inrreg.fields.lattice import Lattice, LatticeGeometry
from inrreg.fields.siren import Siren

__all__ = ["Conditioned", "Dual", "Field", "Jet", "Lattice", "LatticeGeometry", "Siren", "from_spec"]
