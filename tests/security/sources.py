"""The program as data: every module of worker/ and config/, and which of its expressions are fixed before it runs."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MADE_OF_PARTS = (ast.JoinedStr, ast.FormattedValue, ast.Tuple, ast.List, ast.Dict, ast.BinOp)
# What makes text of text, or a statement of it.
METHODS, BUILTINS, MAKERS = ("format", "join", "replace"), ("str", "map"), ("text", "Prepared")


@dataclass(frozen=True, eq=False)
class Module:
    """One file: its syntax, and what is assigned, defined and imported outside of all functions."""

    name: str
    tree: ast.Module
    values: dict[str, list[ast.expr]] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)

    def imports(self) -> Iterator[str]:
        """Every module that it names, also within functions; of `from a import b` also `a.b`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (each.name for each in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from (str(node.module), *(f"{node.module}.{each.name}" for each in node.names))

    def calls(self, *names: str) -> Iterator[ast.Call]:
        """The calls of a function or method of these names that are given something."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and node.args and called(node) in names:
                yield node


def called(call: ast.Call) -> str:
    """The last name of what is called."""
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@cache
def modules() -> dict[str, Module]:
    """Name -> module, of all that the service is made of."""
    found = {}
    for path in sorted([*ROOT.glob("worker/**/*.py"), *ROOT.glob("config/**/*.py")]):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = _read(name, path)
    return found


def _read(name: str, path: Path) -> Module:
    module = Module(name, ast.parse(path.read_text()))
    for node in module.tree.body:
        _note(module, node)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                _note(module, inner)
    return module


def _note(module: Module, node: ast.stmt) -> None:
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                module.values.setdefault(target.id, []).append(node.value)
    elif isinstance(node, ast.FunctionDef):
        module.functions[node.name] = node
    elif isinstance(node, ast.ImportFrom) and node.module:
        module.imported.update({each.asname or each.name: (node.module, each.name) for each in node.names})


def fixed(node: ast.AST | None, module: Module) -> bool:
    """Whether `node` is written in the source: a literal, or made of literals and constants of modules alone."""
    match node:
        case ast.Constant() | ast.expr_context() | ast.operator():
            return True
        case ast.Name(id=name):
            return name in BUILTINS or _constant(name, module)
        case ast.Attribute(value=owner, attr=name):
            return _attribute(owner, name, module)
        case ast.Call():
            return _made_of_fixed(node, module)
        case ast.IfExp(body=one, orelse=other):
            return fixed(one, module) and fixed(other, module)
    return isinstance(node, MADE_OF_PARTS) and all(fixed(part, module) for part in ast.iter_child_nodes(node))


def _constant(name: str, module: Module) -> bool:
    if name in module.imported:
        home, original = module.imported[name]
        return home in modules() and _constant(original, modules()[home])
    values = module.values.get(name, [])
    return len(values) == 1 and name.isupper() and fixed(values[0], module)


def _attribute(owner: ast.expr, name: str, module: Module) -> bool:
    """A constant of this module's class (`self.SAVE`), or of another module."""
    if not isinstance(owner, ast.Name):
        return False
    if owner.id in module.imported:
        home = ".".join(module.imported[owner.id])
        return home in modules() and _constant(name, modules()[home])
    return owner.id in ("self", "cls") and _constant(name, module)


def _made_of_fixed(call: ast.Call, module: Module) -> bool:
    """A statement or a text made of what is fixed; or a function of this module that can return nothing else."""
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    if isinstance(call.func, ast.Attribute):
        bound = call.func.attr in METHODS and fixed(call.func.value, module)
        return bound and all(fixed(each, module) for each in arguments)
    name = called(call)
    if name in (*MAKERS, *BUILTINS):
        return all(fixed(each, module) for each in arguments)
    function = module.functions.get(name)
    if function is None:
        return False
    returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    return bool(returned) and all(fixed(each, module) for each in returned)
