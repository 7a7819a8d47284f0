"""Use cases of pricing, against ports; standard library only."""

from pricing.service.ports import Clock, Fare, Made, Repository, Route, Store, UseCase
from pricing.service.prices import follow
from pricing.service.pricing import Pricing

__all__ = [
    "Clock",
    "Fare",
    "Made",
    "Pricing",
    "Repository",
    "Route",
    "Store",
    "UseCase",
    "follow",
]
