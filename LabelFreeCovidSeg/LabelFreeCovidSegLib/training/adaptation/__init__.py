"""How each row is trained that domain adaptation is compared with: the same slices and network, other losses."""
