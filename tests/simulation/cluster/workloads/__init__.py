"""What clients do, and what must hold of it; composed freely."""

from tests.simulation.cluster.workloads.bank import Bank
from tests.simulation.cluster.workloads.counters import Counters
from tests.simulation.cluster.workloads.lists import Lists
from tests.simulation.cluster.workloads.past import Past
from tests.simulation.cluster.workloads.registers import Registers
from tests.simulation.cluster.workloads.ring import Ring

ALL = [Counters, Registers, Lists, Bank, Ring, Past]
