"""Who is speaking and in which language, in pure MLX.

>>> import speech_zoo
>>> model = speech_zoo.load("campplus-zh-en")
>>> model.verify("a.wav", "b.wav")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import speech_zoo_core.errors  # noqa: F401 (turns TF32 off before MLX is imported)

if TYPE_CHECKING:
    from speech_zoo_core.errors import AudioError as AudioError
    from speech_zoo_core.errors import CheckpointError as CheckpointError
    from speech_zoo_core.errors import ConfigError as ConfigError
    from speech_zoo_core.errors import HubError as HubError
    from speech_zoo_core.errors import InputError as InputError
    from speech_zoo_core.errors import RegistryError as RegistryError
    from speech_zoo_core.errors import SpeechZooError as SpeechZooError
    from speech_zoo_core.tasks.cohort import Cohort as Cohort
    from speech_zoo_core.tasks.language import Prediction as Prediction
    from speech_zoo_core.tasks.speaker import Verification as Verification

    from .calibration.thresholds import threshold_of as threshold_of
    from .corpus.embedder import Embedder as Embedder
    from .corpus.manifest import ManifestRun as ManifestRun
    from .corpus.run import embed_manifest as embed_manifest
    from .models import convert as convert
    from .models import load as load
    from .plugin.patches import register as register
    from .publish.card import card as card
    from .publish.check import check as check
    from .publish.export import export as export
    from .publish.parity import Parity as Parity
    from .publish.upload import Upload as Upload
    from .publish.upload import upload as upload
    from .recordings.conversation import conversation as conversation
    from .recordings.diarization import diarize as diarize
    from .recordings.evaluation import Evaluation as Evaluation
    from .recordings.evaluation import evaluate as evaluate
    from .recordings.report import report as report
    from .recordings.segment import Segment as Segment
    from .recordings.timeline import timeline as timeline
    from .settings import __version__ as __version__
    from .voices.store import VoiceStore as VoiceStore

# The public names, and the module of each; it is imported when the name is first used.
_MODULES = {
    "__version__": ".settings",
    "AudioError": "speech_zoo_core.errors",
    "CheckpointError": "speech_zoo_core.errors",
    "Cohort": "speech_zoo_core.tasks.cohort",
    "ConfigError": "speech_zoo_core.errors",
    "Embedder": ".corpus.embedder",
    "HubError": "speech_zoo_core.errors",
    "Evaluation": ".recordings.evaluation",
    "InputError": "speech_zoo_core.errors",
    "ManifestRun": ".corpus.manifest",
    "Parity": ".publish.parity",
    "Prediction": "speech_zoo_core.tasks.language",
    "RegistryError": "speech_zoo_core.errors",
    "Segment": ".recordings.segment",
    "SpeechZooError": "speech_zoo_core.errors",
    "Upload": ".publish.upload",
    "Verification": "speech_zoo_core.tasks.speaker",
    "VoiceStore": ".voices.store",
    "card": ".publish.card",
    "check": ".publish.check",
    "conversation": ".recordings.conversation",
    "convert": ".models",
    "diarize": ".recordings.diarization",
    "evaluate": ".recordings.evaluation",
    "embed_manifest": ".corpus.run",
    "export": ".publish.export",
    "load": ".models",
    "register": ".plugin.patches",
    "report": ".recordings.report",
    "threshold_of": ".calibration.thresholds",
    "timeline": ".recordings.timeline",
    "upload": ".publish.upload",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
