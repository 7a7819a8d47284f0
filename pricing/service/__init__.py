"""Use cases of pricing, against ports; standard library only."""

from pricing.service.ports import Clock, Fare, FareProgress, Made, Repository, Route, Store, UseCase
from pricing.service.prices import AT_A_TIME, follow
from pricing.service.pricing import Pricing

__all__ = [
    "AT_A_TIME",
    "Clock",
    "Fare",
    "FareProgress",
    "Made",
    "Pricing",
    "Repository",
    "Route",
    "Store",
    "UseCase",
    "follow",
]
