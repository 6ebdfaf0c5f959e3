"""What a formula may be written in, and formulas bound to other primitives."""

import importlib.util
import math
from itertools import count

import mpmath
import numpy as np
import pytest

import fastloss as fl
from fastloss.formula import ops
from fastloss.formula.ops import clip, exp, log, product, sigmoid, softplus, where
from fastloss.formula.subset import NotInSubset, check, rebind

OUTSIDE = 2.0
FORMULAS = {
    f"{name}.{label}": formula
    for name, loss in fl.losses.registry().items()
    for label, formula in loss.formulas().items()
}
COMPOSITES = [clip, ops.sign, ops.positive_part, product, sigmoid, softplus]


# -- what is accepted ------------------------------------------------------------------------------


def halves(x, scale):
    return 0.5 * x, scale * x


def near(x, y):
    return abs(x - y) <= 1e-3


def everything(y, p, delta, hit):
    """One of each: docstring, literals, constants, masks, nested calls, unpacking, a name assigned twice."""
    third = 1.0 / 3
    r, mean = p - y, 0.5 * (p + y)
    small, large = halves(r, -delta)
    inside = (abs(r) <= delta) & ~near(y, p) | (hit & (y != 0))
    r = where(inside, r, third * small)
    value = clip(r * r / (1.0 + exp(-large)), 0.0, delta)
    return value, where(hit, sigmoid(r), product(r, log(mean)))


class Holder:
    @staticmethod
    def formula(y, p):
        # A comment, and a docstring that is none
        difference = p - y
        return difference * difference


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS.keys())
def test_formulas_of_all_losses_are_accepted(formula):
    assert check(formula).outputs >= 1


@pytest.mark.parametrize("formula", COMPOSITES, ids=lambda formula: formula.__name__)
def test_composite_operations_are_formulas(formula):
    assert check(formula).outputs == 1


def test_source_of_a_formula():
    source = check(everything)
    assert source.name == "everything"
    assert source.filename == __file__
    assert source.first_line == everything.__code__.co_firstlineno
    assert source.arguments == ("y", "p", "delta", "hit")
    assert (source.outputs, source.returns_tuple) == (2, True)
    assert set(source.calls) == {"halves", "near", "clip", "sigmoid", "product"}
    assert source.primitives == {"abs": "abs", "where": "where", "exp": "exp", "log": "log"}
    kinds = {
        "third": "number",
        "hit": "mask",
        "inside": "mask",
        "r": "real",
        "small": "real",
        "delta": "real",
    }
    assert kinds.items() <= source.kinds.items()
    assert check(near).output_kind == "mask"


def test_static_method_and_closure_are_formulas():
    def doubled(x):
        return 2.0 * x

    def quadrupled(x):
        return doubled(doubled(x))

    assert check(Holder.formula).arguments == ("y", "p")
    assert set(check(quadrupled).calls) == {"doubled"}


def test_primitive_under_another_name(tmp_path):
    module = written(tmp_path, "from fastloss.formula.ops import exp as e\ndef f(x): return e(x)")
    assert check(module.f).primitives == {"e": "exp"}


def test_docstring_lines_may_start_anywhere(tmp_path):
    text = "def make():\n  def f(x):\n    '''Text goes on\nat the margin.'''\n    return x\n  return f\n"
    assert check(written(tmp_path, text).make()).first_line == 2


# -- what is refused -------------------------------------------------------------------------------

PRELUDE = "import math\nfrom math import exp as c_exp\nfrom fastloss.formula.ops import *\nK = 2.0\n"
# The refused line ends in `#!`; its name says what the message calls it.
REFUSED = {
    "an if statement": "def f(x):\n if x > 0: #!\n  x = -x\n return x",
    "an if statement (last)": "def f(x):\n if x > 0: #!\n  return x\n else:\n  return -x",
    "a conditional expression": "def f(x):\n y = 1.0\n return x if x > y else y #!",
    "a loop": "def f(x):\n for i in (1, 2): #!\n  x = x + i\n return x",
    "a loop (while)": "def f(x):\n while x < 1: #!\n  x = x + x\n return x",
    "a lambda": "f = lambda x: x #!",
    "a lambda (inside)": "def f(x):\n g = lambda z: z #!\n return g(x)",
    "attribute access": "def f(x):\n y = x\n return math.exp(y) #!",
    "attribute access (array)": "def f(x):\n return x.T #!",
    "attribute access (assigned)": "def f(x):\n x.y = 1.0 #!\n return x",
    "indexing": "def f(x):\n return x[0] #!",
    "indexing (assigned)": "def f(x):\n x[0] = 1.0 #!\n return x",
    "a keyword argument": "def f(x):\n return clip(x, lowest=0.0, highest=1.0) #!",
    "a star argument": "def f(x):\n return clip(*x) #!",
    "a keyword argument (double star)": "def f(x):\n return clip(**x) #!",
    "this comparison": "def f(x):\n return where(0.0 < x < 1.0, x, 0.0) #!",
    "this comparison (in)": "def f(x):\n return where(x in (0.0, 1.0), x, 0.0) #!",
    "this comparison (is)": "def f(x):\n return where(x is 0.5, x, 0.0) #!",
    "and/or": "def f(x):\n return where(x > 0.0 and x < 1.0, x, 0.0) #!",
    "and/or (or)": "def f(x):\n return where(x > 0.0 or x < 1.0, x, 0.0) #!",
    "not": "def f(x):\n return where(not x > 0.0, x, 0.0) #!",
    "augmented assignment": "def f(x):\n y = x\n y += 1.0 #!\n return y",
    "augmented assignment (undefined)": "def f(x):\n y += x #!\n return y",
    "an annotated assignment": "def f(x):\n y: float = x #!\n return y",
    "an assignment expression": "def f(x):\n return (y := x) + y #!",
    "a chained assignment": "def f(x):\n y = z = x #!\n return y + z",
    "this unpacking": "def f(x, y):\n x, y = y, x #!\n return x - y",
    "this unpacking (uneven)": "def f(x):\n y, z = x, x, x #!\n return y - z",
    "a star argument (unpacking)": "def g(x):\n return x, x\ndef f(x):\n y, *z = g(x) #!\n return y",
    "this unpacking (too few)": "def g(x):\n return x, x, x\ndef f(x):\n y, z = g(x) #!\n return y + z",
    "this unpacking (of one)": "def f(x):\n y, z = exp(x) #!\n return y + z",
    "a tuple": "def f(x):\n y = (x, x) #!\n return y",
    "a tuple (returned inside)": "def f(x):\n return x, (x, x) #!",
    "a tuple inside an expression": "def g(x):\n return x, x\ndef f(x):\n return 1.0 + g(x) #!",
    "an undefined name": "def f(x):\n return x + z #!",
    "an undefined name (called)": "def f(x):\n return z(x) #!",
    "an outside value": "def f(x):\n return K * x #!",
    "an outside value (before assignment)": "def f(x):\n y = z #!\n z = x\n return y",
    "an outside value (built in)": "def f(x):\n return x + len #!",
    "an undefined name (local called)": "def f(x, exp):\n return exp(x) #!",
    "a call of what is no formula": "def f(x):\n return c_exp(x) #!",
    "a call of what is no formula (built in)": "def f(x):\n return max(x, 0.0) #!",
    "a call of what is no formula (class)": "def f(x):\n return float(x) #!",
    "a call of what is no formula (number)": "def f(x):\n return K(x) #!",
    "a call of what is no formula (own)": "class A:\n @staticmethod\n def f(x):\n  return A(x) #!\nf = A.f",
    "attribute access (called on a call)": "def f(x):\n return exp(x).sum() #!",
    "this constant": "def f(x):\n return where(x > 0.0, 'a', x) #!",
    "this constant (complex)": "def f(x):\n return x * 1j #!",
    "this constant (None)": "def f(x):\n return x, None #!",
    "this constant (bool)": "def f(x):\n return where(True, x, 0.0) #!",
    "this constant (infinite)": "def f(x):\n return x + 1e999 #!",
    "a power": "def f(x):\n return x**2 #!",
    "recursion": "def f(x):\n return f(x) #!",
    "recursion (through another)": "def g(x):\n return f(x) #!\ndef f(x):\n return g(x)",
    "a nested function": "def f(x):\n def g(z): #!\n  return z\n return g(x)",
    "a function without a return": "def f(x): #!\n y = x",
    "a function without a return (no body)": "def f(x): #!\n '''Only text.'''",
    "a return without a value": "def f(x):\n return #!",
    "a return without a value (empty)": "def f(x):\n return () #!",
    "Return": "def f(x):\n return x #!\n return -x",
    "a comprehension": "def f(x):\n y = [z for z in (1, 2)] #!\n return x",
    "a comprehension (generator)": "def f(x):\n y = (z for z in (1, 2)) #!\n return x",
    "an expression statement": "def f(x):\n print(x) #!\n return x",
    "an expression statement (yield)": "def f(x):\n yield x #!\n return x",
    "AsyncFunctionDef": "async def f(x): #!\n return x",
    "global state": "def f(x):\n global K #!\n K = x\n return x",
    "outside state": "def g(k):\n def f(x):\n  nonlocal k #!\n  k = x\n  return k\n return f\nf = g(0)",
    "an outside value (closure)": "def make(k):\n def f(x):\n  return k * x #!\n return f\nf = make(2.0)",
    "an argument beyond a name": "def f(x, k=1.0): #!\n return k * x",
    "an argument beyond a name (star)": "def f(*x): #!\n return x",
    "an argument beyond a name (keyword)": "def f(x, *, k): #!\n return k * x",
    "a decorator": "import functools\n@functools.cache #!\ndef g(x):\n return x\nf = g.__wrapped__",
    "a call with 2 arguments": "def f(x):\n return where(x > 0.0, x) #!",
    "a call with 1 arguments": "def f(x):\n return clip(x) #!",
    "UAdd": "def f(x):\n return +x #!",
    "BitXor": "def f(x):\n return where((x > 0) ^ (x < 1), x, 0) #!",
    "FloorDiv": "def f(x):\n return x // 2.0 #!",
    "List": "def f(x):\n return [x] #!",
    "JoinedStr": "def f(x):\n return f'{x}' #!",
    "Delete": "def f(x):\n y = x\n del y #!\n return x",
    "Assert": "def f(x):\n assert x > 0 #!\n return x",
    "With": "def f(x):\n with x: #!\n  y = x\n return x",
    "a mask where a number belongs": "def f(x):\n return (x > 0.0) * x #!",
    "a mask where a number belongs (argument)": "def f(x, hit):\n y = where(hit, x, 0.0)\n return y * hit #!",
    "a mask where a number belongs (returned)": "def f(x):\n return x, x > 0.0 #!",
    "a mask where a number belongs (mixed)": "def f(x):\n return where(x > 0.0, x, x < 1.0) #!",
    "a number where a mask belongs": "def f(x):\n y = -x\n return where(x, y, x) #!",
    "a number where a mask belongs (call)": "def g(m):\n return where(m, 1, 0)\ndef f(x):\n return g(3) #!",
    "a number where a mask belongs (operator)": "def f(x, y):\n return where(~(x + y), x, y) #!",
    "a name used for a number and for a mask": "def f(x):\n x = x > 0.0 #!\n return where(x, 1.0, 0.0)",
    "a name outside of ASCII": "def f(x, δ): #!\n return x * δ",
}  # fmt: skip
_numbers = count()


def written(tmp_path, text):
    """Import a module with this text."""
    path = tmp_path / f"formulas_{next(_numbers)}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("case", REFUSED)
def test_refusal_names_file_line_and_code(tmp_path, case):
    module = written(tmp_path, PRELUDE + REFUSED[case] + "\n")
    with pytest.raises(NotInSubset) as caught:
        check(module.f)
    lines = (PRELUDE + REFUSED[case]).split("\n")
    (line,) = (number for number, text in enumerate(lines, 1) if text.endswith("#!"))
    what = case.partition(" (")[0]
    assert str(caught.value).startswith(f"{module.__file__}:{line}: {what} is not in the formula subset: '")


def test_refusal_quotes_the_code_and_gives_a_hint(tmp_path):
    module = written(tmp_path, "def f(x):\n    return x ** 0.5\n")
    with pytest.raises(NotInSubset, match=r"py:2: a power is .*: 'x \*\* 0.5'\. Multiply, or use exp\("):
        check(module.f)


def test_refusal_inside_a_called_formula_names_both_places(tmp_path):
    module = written(tmp_path, "def g(x):\n    return x.y\n\n\ndef f(x):\n    z = x\n    return g(z)\n")
    with pytest.raises(NotInSubset, match=r"py:2: attribute access .* \(called at .*py:7\)"):
        check(module.f)


def test_function_without_a_file_is_refused():
    namespace = {}
    exec("def f(x):\n    return x", namespace)
    with pytest.raises(NotInSubset, match="<string>:1: a formula must be written in a file"):
        check(namespace["f"])


@pytest.mark.parametrize("thing", [np.exp, abs, 3.0, Holder, Holder().formula.__call__])
def test_only_functions_are_formulas(thing):
    with pytest.raises(TypeError, match="a formula must be a plain function; got"):
        check(thing)


# -- other primitives ------------------------------------------------------------------------------

MPMATH = {
    "where": lambda condition, yes, no: yes if condition else no,
    "exp": mpmath.exp,
    "exp_nonpositive": mpmath.exp,
    "expm1": mpmath.expm1,
    "expm1_nonpositive": mpmath.expm1,
    "log": mpmath.log,
    "log1p": lambda x: mpmath.log(1 + x),
    "log1p_unit": lambda x: mpmath.log(1 + x),
    "power": mpmath.power,
    "sqrt": mpmath.sqrt,
    "abs": mpmath.fabs,
}


def logistic(y, x):
    return softplus(x) - product(y, x), sigmoid(x) - y


def weighted(y, x, weight):
    value, gradient = logistic(y, x)
    return weight * value, weight * gradient


def test_rebind_reaches_nested_formulas():
    with mpmath.workdps(50):
        x = mpmath.mpf("-70.25")
        value, gradient = rebind(weighted, MPMATH)(mpmath.mpf(0), x, mpmath.mpf(3))
        assert mpmath.almosteq(value, 3 * mpmath.log1p(mpmath.exp(x)), rel_eps=mpmath.mpf(10) ** -19)
        assert mpmath.almosteq(gradient, 3 / (1 + mpmath.exp(-x)), rel_eps=mpmath.mpf(10) ** -45)


def test_rebind_replaces_every_primitive_and_nothing_else():
    called = []

    def noting(name, primitive):
        return lambda *operands: called.append(name) or primitive(*operands)

    rebound = rebind(weighted, {name: noting(name, ops.PRIMITIVES[name].numpy) for name in MPMATH})
    assert rebound(1.0, 0.5, 2.0) == weighted(1.0, 0.5, 2.0)
    assert set(called) == {"where", "exp_nonpositive", "log1p_unit", "abs"}
    called.clear()
    assert rebind(weighted, {"abs": noting("abs", abs)})(1.0, 0.5, 2.0) == weighted(1.0, 0.5, 2.0)
    assert called == ["abs", "abs"]


def test_rebind_leaves_the_original_alone():
    before = dict(vars(ops)), weighted.__globals__["softplus"], weighted(1.0, -0.5, 2.0)
    rebound = rebind(weighted, dict.fromkeys(MPMATH, lambda *operands: math.nan))
    assert math.isnan(rebound(1.0, -0.5, 2.0)[0])
    assert before == (dict(vars(ops)), weighted.__globals__["softplus"], weighted(1.0, -0.5, 2.0))
    assert rebound.__name__ == "weighted"
    assert "abs" not in vars(ops)


def test_rebind_works_on_static_methods_and_closures():
    def magnitude(x):
        return abs(x)

    def outer(x):
        return magnitude(x) + abs(x)

    rebound = rebind(outer, {"abs": lambda x: 10.0 * x})
    assert (rebound(2.0), outer(2.0), magnitude(-2.0)) == (40.0, 4.0, 2.0)
    assert rebind(Holder.formula, MPMATH)(1.0, 3.0) == 4.0


def test_rebind_refuses_what_is_no_formula():
    with pytest.raises(NotInSubset, match="an outside value"):
        rebind(outside, MPMATH)


def outside(x):
    return OUTSIDE * x
