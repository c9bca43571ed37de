"""The training laboratory: small transformers on data that ships with packages, with what criticality is about logged."""
