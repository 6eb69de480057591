"""The environment of a job, or of another process that we start: what it needs, by name, and no more.

Airflow's own environment holds the teacher's key, the judge's, the store's and MLflow's password, and those
of other projects. A job needs none of them: it reads and writes the artifact root, and fetches weights from
the Hub where its student's lie there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

from flywheel.common.redaction import is_secret_name
from flywheel.config.secrets import has_userinfo

# Where things are, how libraries behave.
_HARMLESS = re.compile(
    r"(?:PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TMPDIR|TEMP|TMP|VIRTUAL_ENV|SYSTEMROOT|SSL_CERT_FILE|"
    r"SSL_CERT_DIR|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NO_PROXY|no_proxy)$"
    r"|LC_|XDG_|LD_|DYLD_|PYTHON|CONDA_|CUDA_|NVIDIA_|NCCL_|ROCR_|HIP_|HSA_|TORCH|PYTORCH_|TRITON_|MKL_|OMP_|CUBLAS_|CUDNN_|"
    r"KMP_|GOMP_|OPENBLAS_|NUMEXPR_|VECLIB_|MALLOC_|TOKENIZERS_|SAFETENSORS_|HF_|HUGGINGFACE_|TRANSFORMERS_|"
    r"ACCELERATE_|FLYWHEEL_|COVERAGE_"
)
# Of ours, what is about the teacher alone.
_NOT_OURS = ("FLYWHEEL_TEACHER_",)
_HUB = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
# By the scheme of the artifact root: what its client reads.
_STORES = {
    "s3": ("AWS_", "FSSPEC_S3"),
    "s3a": ("AWS_", "FSSPEC_S3"),
    "gs": ("GOOGLE_", "GCLOUD_", "CLOUDSDK_", "GCSFS_", "FSSPEC_G"),
    "gcs": ("GOOGLE_", "GCLOUD_", "CLOUDSDK_", "GCSFS_", "FSSPEC_G"),
    "abfs": ("AZURE_", "FSSPEC_A"),
    "abfss": ("AZURE_", "FSSPEC_A"),
    "az": ("AZURE_", "FSSPEC_A"),
}


def needed_environment(root: str, *, from_hub: bool = False, also: Collection[str] = ()) -> dict[str, str]:
    """Return the variables of this process that a process needs for its work on an artifact root.

    Args:
        root: path or URL of the artifact root, or of something in it.
        from_hub: the process may fetch weights from the Hugging Face Hub.
        also: names of others that the operator says it needs.
    """
    scheme = root.partition("://")[0] if "://" in root else ""
    store = _STORES.get(scheme, ("FSSPEC_",) if scheme else ())
    names = {*also, *(_HUB if from_hub else ()), *(_PROXIES if scheme or from_hub else ())}
    return {
        name: value
        for name, value in os.environ.items()
        if name in names or name.startswith(store) or _is_harmless(name, value)
    }


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the secrets in it: for a process that stays, and works for many."""
    return {name: value for name, value in environment.items() if not _is_secret(name, value)}


def _is_harmless(name: str, value: str) -> bool:
    if name.startswith(_NOT_OURS) or _is_secret(name, value):
        return False
    return bool(_HARMLESS.match(name))


def _is_secret(name: str, value: str) -> bool:
    return is_secret_name(name) or has_userinfo(value)
