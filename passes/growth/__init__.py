"""Models made wider and deeper that compute what they did: new units and layers that training then makes use of."""
