"""`make gpu`: whether idvl on a GPU gives what it gives on a CPU, and how fast it is there."""
