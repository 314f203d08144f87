"`python -m skysky`"
from skysky.cli import main

main()
