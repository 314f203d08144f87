"Sky masks over HTTP: what `skysky serve` runs."
from .app import Service, server

__all__ = ["Service", "server"]
