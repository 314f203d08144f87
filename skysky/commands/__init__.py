"The commands of `skysky`, a module for each kind; `skysky.cli` puts them together."
__all__: list[str] = []
