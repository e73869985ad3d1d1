"""Checks manifests of Kubernetes: manifests.py RELEASES FILE...

What Kubernetes itself has is compared with the strict schemas of its releases (`1.27,1.37`), what KEDA has with models
that were generated from its definitions. No unknown key is let through. Problems go to standard error; on standard
output is one JSON object: the documents of each file.
"""

import functools
import json
import sys

import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from kubernetes_validate import utils
from pydantic import ValidationError

# The definitions of a release are megabytes, and read anew for each document otherwise.
utils.schema_contents = functools.cache(utils.schema_contents)

releases, files = sys.argv[1].split(","), sys.argv[2:]
documents, problems = {}, 0
for file in files:
    with open(file) as text:
        documents[file] = [each for each in yaml.safe_load_all(text) if each]
    for document in documents[file]:
        name = f"{file}: {document['kind']} {document['metadata']['name']}"
        try:
            if document["apiVersion"].startswith("keda.sh/"):
                model = getattr(keda, document["kind"])
                model.model_validate(document, strict=True, extra="forbid")
            else:
                for release in releases:
                    utils.validate(document, release, strict=True)
        except (ValidationError, utils.ValidationError, utils.SchemaNotFoundError, AttributeError) as error:
            problems += 1
            print(f"{name}: {getattr(error, 'message', error)}", file=sys.stderr)
json.dump(documents, sys.stdout)
sys.exit(1 if problems else 0)
