"""`python -m benchmarks [NAME ...] [--device cuda]`: run all benchmarks, or the named ones."""

import argparse
import importlib
import pkgutil

import benchmarks


def main() -> None:
    names = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name[0] != "_"]
    names.remove("measure")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="one where cores are shared")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no benchmark {', '.join(unknown)}; there is {', '.join(names)}")

    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(options.threads)
    for name in options.names or names:
        print(f"\n{name}: {options.device}, {options.threads} thread(s)")
        benchmark = importlib.import_module(f"benchmarks.{name}")
        # Of libraries that are only now loaded, too: NumPy's and SciPy's do not ask PyTorch.
        with threadpool_limits(options.threads):
            benchmark.run(options.device)


if __name__ == "__main__":
    main()
