"""Several processes that train one network: how they find each other, agree, and share out pictures."""
