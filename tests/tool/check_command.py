"""Runs the radixattn command as a user does.

  check_command.py --tool PROGRAM --structs layout.inc
                                                  options, info, damaged files, escapes
  check_command.py --tool PROGRAM --graph FILE --requests N --shared-tokens N
                                                  draws this graph, which another program wrote

Exit status 1, and a line for each, when something is not as expected. SVG and pages are read by
Python's own XML parser.
"""

import argparse
import copy
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE_NAME = "]]><script>alert('1')</script>\"&amp;\x01\u202e\U0001f333"


class Checks:
    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.done = self.failed = 0

    def expect(self, good: object, what: str) -> None:
        self.done += 1
        if not good:
            self.failed += 1
            print("FAILED:", what)

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess:
        return subprocess.run([self.tool, *arguments], input=stdin, capture_output=True, timeout=60)

    def output(self, *arguments: str, stdin: bytes = b"") -> str:
        """What a command that succeeds writes; it says nothing on stderr."""
        result = self.run(*arguments, stdin=stdin)
        self.expect(result.returncode == 0 and not result.stderr, f"{arguments}: {result}")
        return result.stdout.decode("utf-8")

    def refused(self, status: int, message: str, *arguments: str, stdin: bytes = b"") -> None:
        """A command that fails in order: this exit status, one message, nothing on stdout."""
        result = self.run(*arguments, stdin=stdin)
        if result.returncode < 0:
            self.expect(False, f"{arguments}: {signal.Signals(-result.returncode).name}")
            return
        said = result.stderr.decode("utf-8")
        good = result.returncode == status and not result.stdout
        good = good and said.startswith("radixattn: ") and message in said and len(said) < 1000
        self.expect(good, f"{arguments}: {result}\n  expected status {status}, \"{message}\"")


def node(id: int, parent: object, begin: int, blocks: list, **more: object) -> dict:
    return {"id": id, "parent": parent, "namespace": "", "extra_key": "0x0", "begin_token": begin,
            "num_tokens": 16 * len(blocks), "first_tokens": [1, 2], "blocks": blocks,
            "requests": 1, "saved_blocks": 0, "hits": 0, **more}


def request(id: str, node: object, blocks: int, **more: object) -> dict:
    return {"id": id, "node": node, "num_tokens": 16 * blocks, "cached_tokens": 0,
            "num_blocks": blocks, "own_blocks": 0, "namespace": "", "extra_key": "0x0", **more}


GOOD = {
    "block_size": 16, "cached_blocks": 4, "saved_blocks": 2, "saved_tokens": 32,
    "nodes": [node(1, None, 0, [0, 1], requests=2, saved_blocks=2), node(2, 1, 32, [2]),
              node(3, 1, 32, [3])],
    "requests": [request("0xa", 2, 3), request("0xb", 3, 3)],
}


def check_options(c: Checks) -> None:
    for words in ([], ["draw"], ["help", "draw"], ["info", "--yaml"], ["inspect"],
                  ["inspect", "a", "b"], ["inspect", "a", "--format", "png"], ["inspect", "a", "-o"],
                  ["inspect", "a", "--max-nodes", "0"], ["inspect", "a", "--max-nodes", "-1"],
                  ["inspect", "a", "--max-nodes", "99999999999999999999"], ["inspect", "--nodes"],
                  ["inspect", "\x1b[31m", "\x1b[31m"]):
        c.refused(2, "`radixattn help` says more.", *words)
    c.expect("inspect" in c.output("help"), "help lists inspect")
    for words in (["help", "inspect"], ["inspect", "--help"]):
        c.expect("--max-nodes" in c.output(*words), "the options of inspect")
    c.expect(c.output("info", "-h") == c.output("help", "info"), "two ways to the options of info")
    c.expect(c.output("--version").startswith("radixattn "), "--version")


def check_info(c: Checks, structs: dict) -> None:
    info = json.loads(c.output("info", "--json"))
    table = c.output("info")
    c.expect(info["version"] in c.output("--version"), "two versions")
    c.expect(info["abi"] == info["compiled_for_abi"], f"ABIs: {info}")
    c.expect("baseline" in info["cpu_targets"] and info["cpu_target"] in info["cpu_targets"],
             f"CPU targets: {info}")
    c.expect("f32" in info["cpu"]["kv_dtypes"], f"dtypes: {info}")
    for key in ("head_dims", "block_sizes"):
        c.expect(info["cpu"][key]["min"] <= 64 <= info["cpu"][key]["max"], f"{key}: {info}")
    c.expect(structs and info["struct_sizes"] == structs, f"structs: {info}, expected {structs}")
    for text in (info["version"], info["build"], " ".join(info["cpu_targets"])):
        c.expect(text in table, f"info does not say {text}")


def bad_files() -> dict:
    """Bytes of files that are no graphs, by a part of the message."""
    def changed(change) -> bytes:
        doc = copy.deepcopy(GOOD)
        change(doc)
        return json.dumps(doc).encode()
    return {
        "not JSON": b"",
        "unexpected end": b'{"nodes": [',
        "nested deeper than 16 levels": b"[" * 1_000_000,
        "invalid string": b'{"a": "\xff"}',
        "number overflow": b'{"block_size": 1e9999}',
        "is an array: expected an object": b"[1]",
        "has no \"block_size\"": b"{}",
        "go round in a circle": changed(lambda d: d["nodes"][0].update(parent=3)),
        "parent is 9: expected the id": changed(lambda d: d["nodes"][2].update(parent=9)),
        "id is 1: expected an id that no other": changed(lambda d: d["nodes"][2].update(id=1)),
        "nodes[1] is \"x\": expected an object": changed(lambda d: d["nodes"].insert(1, "x")),
        "block_size is 1.8446744073709552e+19": changed(lambda d: d.update(block_size=2**64)),
        "num_tokens is 1099511627776": changed(lambda d: d["nodes"][2].update(num_tokens=2**40)),
        "hits is -1": changed(lambda d: d["nodes"][1].update(hits=-1)),
        "id is null: expected a string": changed(lambda d: d["requests"][1].update(id=None)),
    }


def check_bad_files(c: Checks, folder: pathlib.Path) -> None:
    path, out = folder / "bad.json", folder / "untouched.svg"
    out.write_text("as it was")
    for message, data in bad_files().items():
        path.write_bytes(data)
        c.refused(1, message, "inspect", str(path), "-o", str(out))
        c.refused(1, "bad.json: ", "inspect", str(path))
        c.refused(1, "stdin: ", "inspect", "-", stdin=data)
    c.expect(out.read_text() == "as it was", "a refused file left no output")
    c.refused(1, "missing.json: cannot be opened", "inspect", str(folder / "missing.json"))
    c.refused(1, "cannot be read", "inspect", str(folder))
    path.write_text(json.dumps(GOOD))
    c.refused(1, "cannot be opened for writing", "inspect", str(path), "-o",
              str(folder / "none" / "a.svg"))
    if pathlib.Path("/dev/full").exists():
        for form in ("html", "text"):  # longer and shorter than a buffer
            c.refused(1, "cannot be written", "inspect", str(path), "-o", "/dev/full", "--format", form)


def drawn(c: Checks, graph: pathlib.Path, *options: str) -> dict:
    """The graph in each form, by its name; the ending of the output and --format agree."""
    texts = {}
    for form, ending in (("html", "html"), ("svg", "svg"), ("dot", "dot"), ("text", "txt")):
        out = graph.with_suffix("." + ending)
        c.output("inspect", str(graph), "-o", str(out), *options)
        texts[form] = out.read_bytes().decode("utf-8")
        c.expect(texts[form] == c.output("inspect", str(graph), "--format", form, *options),
                 f"{form}: the file and stdout")
    c.expect(texts["html"] == c.output("inspect", str(graph), *options), "HTML is the default")
    return texts


def check_pictures(c: Checks, texts: dict, nodes: int, what: str) -> None:
    svg = ElementTree.fromstring(texts["svg"])
    c.expect(svg.tag == SVG + "svg", f"{what}: {svg.tag}")
    boxes = [g for g in svg.iter(SVG + "g") if g.get("class", "").startswith("node ")]
    c.expect(len(boxes) == nodes, f"{what}: {len(boxes)} boxes for {nodes} nodes")
    c.expect(all(len(list(g)) == 4 for g in boxes), f"{what}: a box, its tooltip and two lines")
    page = ElementTree.fromstring(texts["html"])
    inline = page.find(".//svg")
    c.expect(inline is not None and len(list(inline.iter())) == len(list(svg.iter())),
             f"{what}: the picture of the page is the picture")
    for root in (svg, page):
        c.expect(not list(root.iter("script")) and not list(root.iter(SVG + "script")),
                 f"{what}: a script")
    c.expect(texts["dot"].startswith("digraph ") and texts["dot"].endswith("}\n"), f"{what}: dot")


def check_good_files(c: Checks, folder: pathlib.Path) -> None:
    graph = folder / "good.json"
    graph.write_text(json.dumps(GOOD))
    texts = drawn(c, graph, "--title", "A <title> & more")
    check_pictures(c, texts, 3, "good")
    page = ElementTree.fromstring(texts["html"])
    c.expect(page.findtext("head/title") == "A <title> & more", "the title of the page")
    c.expect(texts["text"].startswith("A <title> & more\n"), "the title of the text")
    c.expect(c.output("inspect", "-", stdin=graph.read_bytes()) == c.output("inspect", str(graph)),
             "stdin and the file")
    c.expect("+ 2 nodes, 32 tokens not shown" in c.output(
        "inspect", str(graph), "--format", "text", "--max-nodes", "2"), "--max-nodes")


def check_hostile_names(c: Checks, folder: pathlib.Path) -> None:
    doc = copy.deepcopy(GOOD)
    for item in doc["nodes"] + doc["requests"]:
        item.update(namespace=HOSTILE_NAME, extra_key=HOSTILE_NAME)
    for item in doc["requests"]:
        item.update(id=HOSTILE_NAME)
    graph = folder / "names.json"
    graph.write_text(json.dumps(doc))
    texts = drawn(c, graph, "--title", HOSTILE_NAME.replace("\x01", "\x02"))
    check_pictures(c, texts, 3, "names")
    for form, text in texts.items():
        c.expect("\u202e" not in text and "\x01" not in text and "\x02" not in text,
                 f"{form}: hidden characters")
        c.expect("\\u202e" in text and "\U0001f333" in text, f"{form}: characters are shown")
    title = ElementTree.fromstring(texts["html"]).findtext("head/title")
    visible = HOSTILE_NAME.replace("\x01", "\\u0002").replace("\u202e", "\\u202e")
    c.expect(title == visible, f"the title came back as {title!r}")


def check_graph(c: Checks, graph: pathlib.Path, requests: int, shared: int) -> None:
    """A graph that another program wrote: what its pictures say is what it says."""
    doc = json.loads(graph.read_text())
    c.expect(len(doc["requests"]) == requests, f"{len(doc['requests'])} requests")
    both = [n for n in doc["nodes"] if n["requests"] == requests]
    c.expect(sum(n["num_tokens"] for n in both) == shared, f"shared by all: {both}")
    texts = drawn(c, graph)
    check_pictures(c, texts, len(doc["nodes"]), "graph")
    text = texts["text"]
    for n in doc["nodes"]:
        c.expect(f"node {n['id']}: {n['num_tokens']} token" in text, f"node {n['id']} in the text")
    for r in doc["requests"]:
        c.expect(r["id"] in text, f"request {r['id']} in the text")
    tips = [t.text for t in ElementTree.fromstring(texts["svg"]).iter(SVG + "title")]
    c.expect(any(f"saving {doc['saved_blocks']} block" in tip for tip in tips), f"savings: {tips}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--structs", type=pathlib.Path)
    parser.add_argument("--graph", type=pathlib.Path)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--shared-tokens", type=int, default=0)
    options = parser.parse_args()
    c = Checks(options.tool)
    if options.graph:
        check_graph(c, options.graph, options.requests, options.shared_tokens)
    else:
        check_options(c)
        check_info(c, {name: int(size) for name, size in re.findall(
            r"^STRUCT\((\w+), (\d+)\)", options.structs.read_text(), re.MULTILINE)})
        with tempfile.TemporaryDirectory() as folder:
            check_bad_files(c, pathlib.Path(folder))
            check_good_files(c, pathlib.Path(folder))
            check_hostile_names(c, pathlib.Path(folder))
    print(f"{c.done} checks, {c.failed} failed")
    return 1 if c.failed or not c.done else 0


if __name__ == "__main__":
    sys.exit(main())
