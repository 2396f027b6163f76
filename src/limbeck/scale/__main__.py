"""`python -m limbeck.scale`."""

from limbeck.scale.tables import main

main()
