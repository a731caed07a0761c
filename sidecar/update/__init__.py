"""The way of an update: from whoever asks for it to the published files, and on to the load.

Read `updater` first: it is the main job. `triggers` and the edges in `web` ask for updates, `worker` runs
them one at a time, `lifecycle` and `reconciler` follow what was published until Navigator serves it.
"""
