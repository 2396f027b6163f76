"""The steps that methods share; each is a restartable folder of a run."""
