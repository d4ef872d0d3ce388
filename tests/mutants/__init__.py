"""Mistakes that the tests must see, by stage. run.py tries them: `make mutants`."""

from .mutation import Mutation
from .of_adapters import MUTATIONS as ADAPTERS
from .of_answers import MUTATIONS as ANSWERS
from .of_changed import MUTATIONS as CHANGED
from .of_chosen import MUTATIONS as CHOSEN
from .of_ci import MUTATIONS as CI
from .of_combine import MUTATIONS as COMBINE
from .of_cuda import MUTATIONS as CUDA
from .of_engine import MUTATIONS as ENGINE
from .of_exporters import MUTATIONS as EXPORTERS
from .of_forms import MUTATIONS as FORMS
from .of_low_rank import MUTATIONS as LOW_RANK
from .of_lower import MUTATIONS as LOWER
from .of_match import MUTATIONS as MATCH
from .of_packing import MUTATIONS as PACKING
from .of_page import MUTATIONS as PAGE
from .of_partial import MUTATIONS as PARTIAL
from .of_plan import MUTATIONS as PLAN
from .of_prove import MUTATIONS as PROVE
from .of_routed import MUTATIONS as ROUTED
from .of_rules import MUTATIONS as RULES
from .of_servers import MUTATIONS as SERVERS
from .of_serving_choices import MUTATIONS as SERVING_CHOICES
from .of_session import MUTATIONS as SESSION
from .of_split import MUTATIONS as SPLIT
from .of_storage import MUTATIONS as STORAGE
from .of_tune import MUTATIONS as TUNE
from .of_updates import MUTATIONS as UPDATES
from .of_verdict import MUTATIONS as VERDICT
from .of_views import MUTATIONS as VIEWS
from .of_write import MUTATIONS as WRITE

MUTATIONS: tuple[Mutation, ...] = (
    *MATCH,
    *FORMS,
    *PLAN,
    *RULES,
    *LOWER,
    *LOW_RANK,
    *STORAGE,
    *SPLIT,
    *WRITE,
    *VIEWS,
    *PROVE,
    *CHANGED,
    *CHOSEN,
    *ROUTED,
    *COMBINE,
    *CUDA,
    *ANSWERS,
    *UPDATES,
    *VERDICT,
    *TUNE,
    *ADAPTERS,
    *SERVING_CHOICES,
    *PACKING,
    *PARTIAL,
    *SESSION,
    *SERVERS,
    *ENGINE,
    *PAGE,
    *EXPORTERS,
    *CI,
)
