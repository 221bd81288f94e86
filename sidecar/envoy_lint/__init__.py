"""What is wrong with an Envoy configuration that asks Egret: rules, places, mends."""
