"""Caches as the Hub's client lays them out."""


def make_snapshot(hub, repo, commit="1" * 40, branch="main"):
    """The folder of a commit's files in the cache `hub`, with the branch at this commit."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    path = folder / "snapshots" / commit
    path.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / branch).write_text(commit)
    return path
