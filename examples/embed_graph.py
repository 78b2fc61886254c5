"""Embed a task graph of your own into a network of your own, and see what it takes."""

from __future__ import annotations

import networkx as nx

from gainnet.orchestrator.embedding import Embedder, Embedding


def main() -> None:
    """Serve a sensing task as often as a small grid of edge nodes has room for it."""
    substrate = nx.grid_2d_graph(3, 3)
    nx.set_node_attributes(substrate, 10.0, "capacity")
    nx.set_edge_attributes(substrate, 20.0, "capacity")
    task = nx.Graph()
    task.add_nodes_from(["camera", "detect", "fuse", "answer"], demand=4.0)
    task.add_weighted_edges_from(
        [("camera", "detect", 12.0), ("detect", "fuse", 6.0), ("camera", "fuse", 3.0), ("fuse", "answer", 1.0)],
        weight="demand",
    )
    embedder, served = Embedder(substrate), 0
    while isinstance(answer := embedder.embed(task, allowed={"camera": [(0, 0), (0, 2), (2, 0), (2, 2)]}), Embedding):
        embedder.commit(answer)
        served += 1
        print(f"{served}: {dict(answer.mapping)}, revenue to cost {answer.revenue_to_cost:.2f}")
        for link, path in answer.paths.items():
            print(f"   {link[0]} -> {link[1]}: {' - '.join(map(str, path))}")
    print(f"served {served}; the next is refused for {answer.reason}: {answer.detail}")


if __name__ == "__main__":
    main()
