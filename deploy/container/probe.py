"""Whether a listener that asks for certificates is well: ``python probe.py URL FOLDER`` exits with 0 where it answers 200.

Shows the listener its own certificate (FOLDER/node.crt, node.key) and trusts FOLDER/tiers-ca.crt. The name in the
certificate is not compared: what is asked is this machine's own address.
"""

from __future__ import annotations

import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

WAIT_S = 4.0


def main(url: str, folder: Path) -> int:
    """0 where it answers 200, 1 otherwise, with one line on stderr."""
    try:
        tls = ssl.create_default_context(cafile=folder / "tiers-ca.crt")
        tls.check_hostname = False
        tls.load_cert_chain(folder / "node.crt", folder / "node.key")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls))
        with opener.open(url, timeout=WAIT_S) as response:
            return 0 if response.status == 200 else 1
    except (OSError, urllib.error.HTTPError) as error:
        sys.stderr.write(f"{url}: {' '.join(str(error).split())}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
