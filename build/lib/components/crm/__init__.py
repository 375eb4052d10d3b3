"""Conventional recommender models: one file a model, pure forward."""

from components.crm.model import Crm
from components.crm.registry import CrmConfig, build

__all__ = ["Crm", "CrmConfig", "build"]
